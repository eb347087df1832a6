package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
)

// startCmd is `coordinator start`.
type startCmd struct {
	Data     string `required:"" placeholder:"DIR" help:"Directory of this coordinator's log and state."`
	Listen   string `default:"${address}" placeholder:"ADDR" help:"Address for workers and operators."`
	HTTP     string `name:"http" default:"127.0.0.1:7401" placeholder:"ADDR" help:"Address for /healthz and /status; none: no such port."`
	Insecure bool   `help:"Allow addresses other than loopback, without encryption."`
	LogLevel string `default:"info" enum:"debug,info,warn,error" help:"debug, info, warn or error."`
}

// noAddress turns a port off.
const noAddress = "none"

// Run runs a coordinator until it is interrupted.
func (c *startCmd) Run(con console) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return usagef("--log-level: %w", err)
	}
	log := slog.New(slog.NewTextHandler(con.err, &slog.HandlerOptions{Level: level}))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cfg := nodeConfig{directory: c.Data, log: log}
	var err error
	if cfg.listener, err = listen("--listen", c.Listen, c.Insecure); err != nil {
		return err
	}
	defer cfg.listener.Close()
	if c.HTTP != noAddress {
		if cfg.http, err = listen("--http", c.HTTP, c.Insecure); err != nil {
			return err
		}
		defer cfg.http.Close()
	}
	n, err := newNode(cfg)
	if err != nil {
		return err
	}
	web := noAddress
	if cfg.http != nil {
		web = cfg.http.Addr().String()
	}
	log.Info("coordinator started", "node", n.raft.ID(), "data", c.Data, "listen", cfg.listener.Addr().String(),
		"http", web)
	log.Info("workers join with: worker run --data DIR --coordinator " + cfg.listener.Addr().String())
	return n.Run(ctx)
}

// listen opens the address of a flag. One that others could reach is refused unless it is meant to be: nothing is
// encrypted yet.
func listen(flag, address string, insecure bool) (net.Listener, error) {
	if err := checkAddress(flag, address); err != nil {
		return nil, err
	}
	host, _, _ := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	if !insecure && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, usagef("%s %s is open to the network without encryption; use 127.0.0.1, or add --insecure", flag, address)
	}
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s %s: the port is in use; stop what uses it, or choose another %s", flag, address, flag)
	}
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err // without the address again
		}
		return nil, fmt.Errorf("%s %s: %w; choose another %s", flag, address, err, flag)
	}
	return l, nil
}
