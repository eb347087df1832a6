package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"time"
)

// pace holds a bench before every step until a line comes in, so that several programs can take turns step by step and
// what the machine does otherwise meets all of them alike. A nil one holds nothing.
type pace struct {
	in  *bufio.Reader
	out io.Writer
}

func newPace(con console) *pace { return &pace{in: bufio.NewReader(con.in), out: con.out} }

// wait waits for a line.
func (p *pace) wait() error {
	if p == nil {
		return nil
	}
	if _, err := p.in.ReadString('\n'); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("standard input ended")
		}
		return fmt.Errorf("wait for a line before the next step: %w; leave out --paced to run without", err)
	}
	return nil
}

// step prints how long a step took and waits for the next line, unless it was the last.
func (p *pace) step(took time.Duration, last bool) error {
	if p == nil {
		return nil
	}
	if _, err := fmt.Fprintf(p.out, "%.6f\n", took.Seconds()); err != nil || last {
		return err
	}
	return p.wait()
}
