package browser

import (
	"fmt"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// TestSmoothed: the mean of an error that was above 0 and is 0 now says 0, not what a mean keeps for ever of what was.
func TestSmoothed(t *testing.T) {
	l := look(t)
	tab := l.tab(Looks[0], standingPage(t, "")+"/jobs/"+job)
	const said = `document.querySelectorAll(".chart")[1].querySelector(".legend b").textContent`
	l.must(tab.Until("there is an error", said+` !== "–"`))
	var text string
	l.must(tab.Value(said, &text))
	if text != "0" {
		t.Errorf("fifty steps after the last error the smoothed one is %s %%", text)
	}
}

// standingPage serves the dashboard of a cluster that stands still.
func standingPage(t *testing.T, token string) string {
	t.Helper()
	url, end := StandIn(token)
	t.Cleanup(end)
	return url
}

// TestManyPoints zooms into a curve of a hundred thousand points, twenty times, and says how long one takes to draw.
// The bound is wide, since other things run beside it.
func TestManyPoints(t *testing.T) {
	l := look(t)
	tab := l.tab(Looks[0], standingPage(t, "")+"/jobs/"+job)
	l.must(tab.Says(".legend", "training"))
	l.must(tab.Until("the curve is drawn", `!document.querySelector(".plot").getAttribute("aria-label").includes("–")`))
	var ms float64
	l.must(tab.Do(chromedp.Evaluate(`(async () => {
		const plot = document.querySelector(".plot .u-over");
		const box = plot.getBoundingClientRect();
		const began = performance.now();
		for (let i = 0; i < 20; i++) {
			const at = (type, x) => plot.dispatchEvent(new MouseEvent(type, { bubbles: true, button: 0,
				clientX: box.left + x, clientY: box.top + 50 }));
			at("mousemove", 20); at("mousedown", 20); at("mousemove", box.width - 20); at("mouseup", box.width - 20);
			await new Promise(requestAnimationFrame);
			if (i % 5 === 4) plot.dispatchEvent(new MouseEvent("dblclick", { bubbles: true }));
		}
		return (performance.now() - began) / 20;
	})()`, &ms, awaitPromise)))
	t.Logf("%.1f ms a zoom over %d points", ms, points)
	if ms > 500 {
		t.Errorf("a zoom over %d points takes %.0f ms", points, ms)
	}
}

// TestToken: the page asks for the token, says that a wrong one is wrong, and opens with the right one.
func TestToken(t *testing.T) {
	l := look(t)
	tab, err := l.b.Tab(Looks[0])
	l.must(err)
	defer tab.Close()
	l.must(tab.Do(chromedp.Navigate(standingPage(t, "0123456789abcdef") + "/jobs/" + job)))
	l.must(tab.Says("dialog", "asks for its token"))
	give := func(token string) {
		t.Helper()
		l.must(tab.Do(chromedp.Evaluate(fmt.Sprintf(`(() => { const i = document.querySelector("dialog input");
			i.value = %q; i.dispatchEvent(new Event("input", { bubbles: true })); i.focus() })()`, token), nil),
			chromedp.KeyEvent("\r")))
	}
	give("fedcba9876543210")
	l.must(tab.Says("dialog", "That is not it"))
	give("0123456789abcdef")
	l.must(tab.Says("main h1", job))
	l.must(tab.Says(".health", "live"))
}

// TestKeyboard goes to a page, into a dialog and out of it without a mouse.
func TestKeyboard(t *testing.T) {
	l := look(t)
	tab := l.tab(Looks[0], standingPage(t, "")+"/")
	l.must(tab.Says("main", job))
	focus := `document.activeElement?.textContent ?? ""`
	reach := func(text string) {
		t.Helper()
		for range 60 {
			var on string
			l.must(tab.Do(chromedp.KeyEvent("\t"), chromedp.Evaluate(focus, &on)))
			if on == text {
				return
			}
		}
		t.Fatalf("the tab key does not reach %q", text)
	}
	reach(job)
	l.must(tab.Do(chromedp.KeyEvent("\r")))
	l.must(tab.Says("main h1", job))
	reach("Resume …")
	l.must(tab.Do(chromedp.KeyEvent("\r")))
	l.must(tab.Until("the dialog is open", `document.querySelector("dialog[open]") !== null`))
	l.must(tab.Do(chromedp.KeyEvent(kb.Escape)))
	l.must(tab.Until("the dialog is gone", `document.querySelector("dialog") === null`))
	l.must(tab.Until("the curve is there", `document.querySelector(".legend b").textContent !== "–"`))
	l.must(tab.Do(chromedp.Focus(".plot", chromedp.ByQuery), chromedp.KeyEvent(kb.ArrowLeft)))
	l.must(tab.Says(".where", "step 9"))
}

// TestGPUs: the cluster's page says what GPUs say of themselves, and no less where one does not say all.
func TestGPUs(t *testing.T) {
	l := look(t)
	tab := l.tab(Looks[0], standingPage(t, "")+"/cluster")
	for _, want := range []string{"gpu-1", "88 °C", "97 %", "301 W", "7.0 GiB", "of 40.0 GiB", "look at its cooling",
		"slowed down by its power limit"} {
		l.must(tab.Says("section:has(#gpus)", want))
	}
}
