// Package browser looks at the dashboard as people do: in Chromium, on a real cluster of processes. Its tests press
// every control; scripts/screenshots takes pictures of every page.
package browser

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// ErrNone says that there is no browser here.
var ErrNone = errors.New("no Chromium is installed; install it (Debian package chromium)")

// Browser is a running Chromium. Tabs are opened with Tab; Close ends it.
type Browser struct {
	ctx context.Context
	end []context.CancelFunc
}

// Open starts Chromium, without a window.
func Open(ctx context.Context) (*Browser, error) {
	program := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			program = p
			break
		}
	}
	if program == "" {
		return nil, ErrNone
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.NoSandbox,
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("force-color-profile", "srgb"))
	allocated, endAll := chromedp.NewExecAllocator(ctx, options...)
	quiet := func(string, ...any) {} // of events that are newer than the library; what fails says so itself
	first, end := chromedp.NewContext(allocated, chromedp.WithErrorf(quiet))
	b := &Browser{ctx: first, end: []context.CancelFunc{end, endAll}}
	if err := chromedp.Run(first); err != nil {
		b.Close()
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	return b, nil
}

// Close ends the browser.
func (b *Browser) Close() {
	for _, end := range b.end {
		end()
	}
}

// Look is how a page is looked at.
type Look struct {
	Name          string
	Width, Height int64
	Dark, Phone   bool
}

// Looks are the ways in which every page must be pleasant.
var Looks = []Look{
	{Name: "light", Width: 1360, Height: 900}, {Name: "dark", Width: 1360, Height: 900, Dark: true},
	{Name: "phone", Width: 390, Height: 844, Phone: true},
	{Name: "phone-dark", Width: 390, Height: 844, Phone: true, Dark: true},
}

// Tab is an open page. It notes what goes wrong in it.
type Tab struct {
	ctx   context.Context
	Close context.CancelFunc

	mu     sync.Mutex
	faults []string
}

// Tab opens an empty tab.
func (b *Browser) Tab(look Look) (*Tab, error) {
	ctx, end := chromedp.NewContext(b.ctx)
	t := &Tab{ctx: ctx, Close: end}
	chromedp.ListenTarget(ctx, func(e any) {
		switch e := e.(type) {
		case *runtime.EventExceptionThrown:
			t.fault("exception: " + e.ExceptionDetails.Error())
		case *log.EventEntryAdded:
			if e.Entry.Level == log.LevelError && e.Entry.Source != log.SourceNetwork { // it may be cut off, on purpose
				t.fault("console: " + e.Entry.Text)
			}
		}
	})
	// A tab lives as long as the context of the first that runs in it: one with a time limit would take it along.
	if err := chromedp.Run(ctx); err != nil {
		end()
		return nil, fmt.Errorf("open a tab: %w", err)
	}
	scheme := "light"
	if look.Dark {
		scheme = "dark"
	}
	size := []chromedp.EmulateViewportOption{chromedp.EmulateScale(1)}
	if look.Phone {
		size = []chromedp.EmulateViewportOption{chromedp.EmulateScale(2), chromedp.EmulateMobile, chromedp.EmulateTouch}
	}
	return t, t.Do(log.Enable(), page.BringToFront(), emulation.SetFocusEmulationEnabled(true),
		chromedp.EmulateViewport(look.Width, look.Height, size...),
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme},
			{Name: "prefers-reduced-motion", Value: "reduce"}}))
}

func (t *Tab) fault(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.faults = append(t.faults, text)
}

// Faults are the exceptions and the errors of the console so far.
func (t *Tab) Faults() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.faults...)
}

// actLimit is how long anything may take that a page is asked to do.
const actLimit = 40 * time.Second

// Do has the page do something.
func (t *Tab) Do(actions ...chromedp.Action) error {
	ctx, cancel := context.WithTimeout(t.ctx, actLimit)
	defer cancel()
	return chromedp.Run(ctx, actions...)
}

// Go opens an address and waits until the page shows a job, a table or a word of its own.
func (t *Tab) Go(url string) error {
	if err := t.Do(chromedp.Navigate(url)); err != nil {
		return fmt.Errorf("open %s: %w", url, err)
	}
	return t.Until("the page stands", `document.querySelector("main h1") !== null`)
}

// Until waits until an expression is true in the page, through reloads too.
func (t *Tab) Until(what, expression string) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	limit := time.Now().Add(actLimit)
	for {
		var yes bool
		err := t.Do(chromedp.Evaluate("Boolean("+expression+")", &yes))
		if err == nil && yes {
			return nil
		}
		if time.Now().After(limit) {
			var text string
			_ = t.Do(chromedp.Text("body", &text)) // for the message
			return errors.Join(fmt.Errorf("waited in vain until %s; the page says:\n%.2000s", what, text), err)
		}
		select {
		case <-tick.C:
		case <-t.ctx.Done():
			return fmt.Errorf("until %s: %w", what, t.ctx.Err())
		}
	}
}

// Says waits until an element has a text in it.
func (t *Tab) Says(selector, text string) error {
	return t.Until(fmt.Sprintf("%s says %q", selector, text), fmt.Sprintf(
		`[...document.querySelectorAll(%q)].some((e) => e.textContent.includes(%q))`, selector, text))
}

// Press presses the first button with a text, once there is one that can be pressed.
func (t *Tab) Press(within, text string) error {
	find := fmt.Sprintf(`[...document.querySelectorAll(%q)].find((b) => b.textContent.trim().startsWith(%q) &&
		!b.disabled)`, within+" button", text)
	if err := t.Until("there is a button "+text, find+" !== undefined"); err != nil {
		return err
	}
	return t.Do(chromedp.Evaluate(find+".click()", nil))
}

// Fill types a text into a field, in place of what is there.
func (t *Tab) Fill(selector, text string) error {
	return t.set(selector, text, "input")
}

// Choose chooses an option by its value.
func (t *Tab) Choose(selector, value string) error {
	return t.set(selector, value, "change")
}

func (t *Tab) set(selector, text, event string) error {
	find := fmt.Sprintf("document.querySelector(%q)", selector)
	if err := t.Until("there is "+selector, find+" !== null"); err != nil {
		return err
	}
	return t.Do(chromedp.Evaluate(fmt.Sprintf(`(() => { const e = %s; e.value = %q;
		e.dispatchEvent(new Event(%q, { bubbles: true })) })()`, find, text, event), nil))
}

// Value is what an expression is in the page.
func (t *Tab) Value(expression string, into any) error {
	return t.Do(chromedp.Evaluate(expression, into))
}

// Picture writes a picture of the whole page.
func (t *Tab) Picture(path string, whole bool) error {
	var b []byte
	take := chromedp.CaptureScreenshot(&b)
	if whole {
		take = chromedp.FullScreenshot(&b, 100)
	}
	if err := t.Do(take); err != nil {
		return fmt.Errorf("take %s: %w", path, err)
	}
	return os.WriteFile(path, b, 0o644)
}

// Axe runs axe-core in the page and returns its serious and critical findings, one a line.
func (t *Tab) Axe(script string) (string, error) {
	var found []string
	err := t.Do(chromedp.Evaluate(script+";0", nil), chromedp.Evaluate(`axe.run({resultTypes: ["violations"]}).then((r) =>
		r.violations.filter((v) => v.impact === "serious" || v.impact === "critical").map((v) =>
			v.id + ": " + v.help + ": " + v.nodes.map((n) => n.target.join(" ") + " " + n.failureSummary).join(" | ")))`,
		&found, awaitPromise))
	return strings.Join(found, "\n"), err
}

// awaitPromise has an expression's promise be waited for.
func awaitPromise(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }
