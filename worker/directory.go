package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// claimDirectory makes a worker's data directory, locks it against a second worker, and returns the worker's id, which
// is made at the first start and kept there.
func claimDirectory(dir string) (id string, release func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, fmt.Errorf("data directory: %w; choose another --data", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "worker.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", nil, fmt.Errorf("data directory: %w; choose another --data", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return "", nil, fmt.Errorf("data directory %s is used by another worker; choose another --data", dir)
		}
		return "", nil, fmt.Errorf("lock data directory %s: %w", dir, err)
	}
	release = func() { lock.Close() }
	id, err = workerID(filepath.Join(dir, "worker.id"))
	if err != nil {
		release()
		return "", nil, err
	}
	return id, release, nil
}

// workerID reads the id, or makes one. The lock is held.
func workerID(path string) (string, error) {
	b, err := os.ReadFile(path)
	switch {
	case err == nil:
		id := strings.TrimSpace(string(b))
		if id == "" || len(id) > 64 {
			return "", fmt.Errorf("%s holds no worker id; remove the file to get a new one", path)
		}
		return id, nil
	case !errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("read worker id: %w", err)
	}
	id := randomID()
	if err := os.WriteFile(path+".tmp", []byte(id+"\n"), 0o644); err != nil {
		return "", fmt.Errorf("write worker id: %w", err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return "", fmt.Errorf("write worker id: %w", err)
	}
	return id, nil
}

// checkListen refuses an address that others could reach, unless they are meant to: nothing is encrypted yet.
func checkListen(address, advertise string, insecure bool) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return usageError{fmt.Errorf("--listen %s: %w; give host:port", address, err)}
	}
	ip := net.ParseIP(host)
	if !insecure && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return usageError{fmt.Errorf(
			"--listen %s is open to the network without encryption; use 127.0.0.1, or add --insecure", address)}
	}
	if advertise == "" && (host == "" || ip != nil && ip.IsUnspecified()) {
		return usageError{fmt.Errorf("--listen %s is no address others can reach; add --advertise HOST:PORT", address)}
	}
	if advertise != "" {
		return checkAddress("--advertise", advertise)
	}
	return nil
}

// checkAddress wants host:port.
func checkAddress(flag, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err == nil && (host == "" || port == "") {
		err = errors.New("host or port is missing")
	}
	if err != nil {
		return usageError{fmt.Errorf("%s %s: %w; give host:port", flag, address, err)}
	}
	return nil
}
