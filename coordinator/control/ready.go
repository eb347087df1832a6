package control

import "context"

// Ready waits until this node leads and decides, or ctx ends.
func (c *Control) Ready(ctx context.Context) error {
	for {
		c.mu.Lock()
		leading, changed := c.leading, c.changed
		c.mu.Unlock()
		if leading {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// WaitWorkers waits until n workers have a session, or ctx ends.
func (c *Control) WaitWorkers(ctx context.Context, n int) error {
	for {
		c.mu.Lock()
		have, changed := len(c.sessions), c.changed
		c.mu.Unlock()
		if have >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
