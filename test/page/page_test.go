// SPDX-License-Identifier: MPL-2.0

// Package page_test looks at the page of the simulated workspace as a person does, in headless Chromium.
package page_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"vault-plugin-secrets-databricks/test/page/browser"
)

const token = "dapi5ec2e75ec2e75ec2e75ec2e75ec2e700"

var chromium, simulator string

func TestMain(m *testing.M) {
	var err error
	if chromium, err = browser.Find(); err != nil {
		// Loudly, and whether or not there is -v.
		fmt.Fprintf(os.Stderr, "\n*** NOT TESTED: the page of the simulated workspace, since %v\n\n", err)
	}
	dir, err := os.MkdirTemp("", "page-test")
	if err != nil {
		panic(err)
	}
	simulator = filepath.Join(dir, "databricks-simulator")
	build := exec.Command("go", "build", "-o", simulator, "./cmd/databricks-simulator")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v: %s", err, out))
	}
	status := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(status)
}

// workspace is a simulator that runs as a process of its own.
type workspace struct {
	t    *testing.T
	url  string
	stop func()
}

func start(t *testing.T, addr string) *workspace {
	t.Helper()
	cmd := exec.Command(simulator, "-quiet", "-addr", addr, "-token", token)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewScanner(out)
	w := &workspace{t: t, stop: sync.OnceFunc(func() { _ = cmd.Process.Signal(os.Interrupt); _ = cmd.Wait() })}
	t.Cleanup(w.stop)
	for lines.Scan() {
		if found := regexp.MustCompile(`host +(http://\S+)`).FindStringSubmatch(lines.Text()); found != nil {
			w.url = found[1]
		}
		if lines.Text() == "ready" {
			return w
		}
	}
	t.Fatal("the simulator did not get ready")
	return nil
}

// call sends a request to the API, and returns status and answer.
func (w *workspace) call(path, body string) (int, map[string]any) {
	w.t.Helper()
	req, err := http.NewRequest("POST", w.url+path, strings.NewReader(body))
	must(w.t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	must(w.t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	must(w.t, err)
	var answer map[string]any
	_ = json.NewDecoder(bytes.NewReader(raw)).Decode(&answer)
	return resp.StatusCode, answer
}

func (w *workspace) mint(comment string, seconds int) (id string) {
	w.t.Helper()
	body, err := json.Marshal(map[string]any{"comment": comment, "lifetime_seconds": seconds})
	must(w.t, err)
	status, answer := w.call("/api/2.0/token/create", string(body))
	if status != 200 {
		w.t.Fatal(status, answer)
	}
	return answer["token_info"].(map[string]any)["token_id"].(string)
}

// open shows the page, and fails the test if the browser complains of anything: an error of the script, a broken policy.
func open(t *testing.T, w *workspace, width, height int64) context.Context {
	t.Helper()
	if chromium == "" {
		t.Skip("NOT TESTED: there is no Chromium")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	tab, closeTab := browser.Open(ctx, chromium)
	var mu sync.Mutex
	var complaints []string
	must(t, chromedp.Listen(tab, func(event any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			complaints = append(complaints, fmt.Sprintf("%+v", *e.ExceptionDetails))
		case *log.EventEntryAdded:
			if e.Entry.Level == log.EntryLevelError && e.Entry.Source != log.EntrySourceNetwork {
				complaints = append(complaints, e.Entry.Text)
			}
		}
	}))
	t.Cleanup(func() {
		closeTab()
		cancel()
		mu.Lock()
		defer mu.Unlock()
		if len(complaints) > 0 {
			t.Errorf("the browser complains: %q", complaints)
		}
	})
	do(t, tab, chromedp.EmulateViewport(width, height), chromedp.Navigate(w.url+"/"))
	await(t, tab, `document.getElementById("link").dataset.state === "live"`)
	return tab
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func do(t *testing.T, tab context.Context, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	must(t, chromedp.Do(tab, steps...))
}

// await waits until the page says that the expression is true. It asks from outside: chromedp's Poll compiles the expression in the
// page, which the page's policy forbids.
func await(t *testing.T, tab context.Context, expression string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !eval[bool](t, tab, "!!("+expression+")") {
		if time.Now().After(deadline) {
			t.Fatalf("awaited in vain: %s; the page shows:\n%s", expression, eval[string](t, tab, `document.body.innerText`))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func eval[T any](t *testing.T, tab context.Context, expression string) T {
	t.Helper()
	value, err := chromedp.Run(tab, chromedp.Evaluate[T](expression))
	must(t, err)
	return value
}

// row is an expression for the row of a credential with that comment.
func row(comment string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("#credentials > li")].find((li) => li.querySelector(".what").title === %q)`, comment)
}

func TestTokensAreBornAndDieOnThePage(t *testing.T) {
	t.Parallel()
	w := start(t, "127.0.0.1:0")
	tab := open(t, w, 1280, 900)
	id := w.mint("lives for an hour", 3600)
	await(t, tab, row("lives for an hour")+`?.querySelector(".chip.fresh")?.textContent === "new"`)
	await(t, tab, `/^(1h 0m|59m \d+s) left$/.test(`+row("lives for an hour")+`.querySelector(".time").textContent)`)
	if text := eval[string](t, tab, row("lives for an hour")+`.innerText`); !strings.Contains(text, id[:12]+"…") || strings.Contains(text, id[:13]) {
		t.Error(text)
	}
	await(t, tab, `document.querySelector("#calls tr").innerText.includes("/api/2.0/token/create")`)
	await(t, tab, `document.querySelector("#calls tr .who").textContent === "admin@example.com"`)

	w.call("/api/2.0/token/delete", `{"token_id":"`+id+`"}`)
	await(t, tab, row("lives for an hour")+`?.querySelector(".chip.dead")?.textContent === "revoked"`)
	await(t, tab, `!`+row("lives for an hour"))

	w.mint("lives for two seconds", 2)
	await(t, tab, row("lives for two seconds")+`?.querySelector(".chip.dead")?.textContent === "expired"`)
	await(t, tab, `!`+row("lives for two seconds"))
	if strings.Contains(eval[string](t, tab, `document.documentElement.outerHTML`), token) {
		t.Error("the page has a token's value")
	}
}

func TestNamesOfRequestsAreShownAsText(t *testing.T) {
	t.Parallel()
	w := start(t, "127.0.0.1:0")
	tab := open(t, w, 1280, 900)
	const evil = `<img src=x onerror="document.title='taken'"><script>document.title='taken'</script>`
	w.mint(evil, 3600)
	w.call("/api/2.0/preview/scim/v2/ServicePrincipals", `{"displayName": "<b onclick=alert(1)>sp</b>"}`)
	w.call("/api/2.0/preview/scim/v2/Groups", `{"displayName": "<i>g</i>"}`)
	w.call("/api/2.0/<script>alert(1)</script>", `{}`)
	await(t, tab, row(evil))
	if text := eval[string](t, tab, row(evil)+`.textContent`); !strings.Contains(text, `<img src=x`) || !strings.Contains(text, `</script>`) {
		t.Error(text)
	}
	await(t, tab, `document.getElementById("principals").innerText.includes("<b onclick=alert(1)>sp</b>")`)
	await(t, tab, `document.getElementById("groups").innerText.includes("<i>g</i>")`)
	await(t, tab, `document.getElementById("calls").innerText.includes("%3Cscript%3E")`)
	if n := eval[int](t, tab, `document.querySelectorAll("main script, main img, #principals b, #groups i").length`); n != 0 {
		t.Errorf("%d elements were made of text", n)
	}
	if title := eval[string](t, tab, `document.title`); title != "Simulated workspace" {
		t.Error(title)
	}
}

func TestScopesAndSchemasAreShownWithoutValues(t *testing.T) {
	t.Parallel()
	w := start(t, "127.0.0.1:0")
	tab := open(t, w, 1280, 900)
	w.call("/api/2.0/secrets/scopes/create", `{"scope":"etl"}`)
	w.call("/api/2.0/secrets/put", `{"scope":"etl","key":"db/password","string_value":"not-to-be-seen"}`)
	w.call("/api/2.0/secrets/acls/put", `{"scope":"etl","principal":"engineers","permission":"READ"}`)
	w.call("/api/2.1/unity-catalog/secrets", `{"catalog_name":"main","schema_name":"app","name":"api-key","value":"not-to-be-seen"}`)
	await(t, tab, `/etl\s*1 key\s*db\/password\s*just now[^]*engineers\s*READ/.test(document.getElementById("scopes").innerText)`)
	await(t, tab, `/main\.app\s*1 secret\s*api-key/.test(document.getElementById("schemas").innerText)`)
	if strings.Contains(eval[string](t, tab, `document.documentElement.outerHTML`), "not-to-be-seen") {
		t.Error("the page has a secret's value")
	}
}

// TestTwoOfOneNameStayTwo: service principals may share a display name, by which permissions are shown.
func TestTwoOfOneNameStayTwo(t *testing.T) {
	t.Parallel()
	w := start(t, "127.0.0.1:0")
	tab := open(t, w, 1280, 900)
	w.call("/api/2.0/secrets/scopes/create", `{"scope":"etl"}`)
	for range 2 {
		_, made := w.call("/api/2.0/preview/scim/v2/ServicePrincipals", `{"displayName":"twin"}`)
		w.call("/api/2.0/secrets/acls/put", `{"scope":"etl","principal":"`+made["applicationId"].(string)+`","permission":"READ"}`)
	}
	for _, key := range []string{"a", "b", "c"} {
		w.call("/api/2.0/secrets/put", `{"scope":"etl","key":"`+key+`","string_value":"x"}`)
		await(t, tab, `[...document.querySelectorAll("#scopes .keys .mono")].some((name) => name.textContent === "`+key+`")`)
	}
	if n := eval[int](t, tab, `[...document.querySelectorAll("#scopes .acls li")].filter((row) => row.textContent.includes("twin")).length`); n != 2 {
		t.Errorf("%d are shown", n)
	}
}

func TestFaultsAreSwitchedByKeyboard(t *testing.T) {
	t.Parallel()
	w := start(t, "127.0.0.1:0")
	tab := open(t, w, 1280, 900)
	focused := `document.activeElement.getAttribute("aria-labelledby") === "fault-throttled"`
	for range 30 {
		if eval[bool](t, tab, focused) {
			break
		}
		do(t, tab, chromedp.KeyEvent(kb.Tab))
	}
	if !eval[bool](t, tab, focused) {
		t.Fatal("the switch is not reached by Tab")
	}
	if outline := eval[string](t, tab, `getComputedStyle(document.activeElement).outlineStyle`); outline != "solid" {
		t.Errorf("the focus does not show: %q", outline)
	}
	do(t, tab, chromedp.KeyEvent(" "))
	await(t, tab, `document.activeElement.getAttribute("aria-checked") === "true"`)
	if status, _ := w.call("/api/2.0/token/create", `{}`); status != 429 {
		t.Error(status)
	}
	await(t, tab, `document.getElementById("switches").innerText.includes("1 call so far")`)
	await(t, tab, `/fault\s*429/.test(document.querySelector("#calls tr").innerText)`)
	if !eval[bool](t, tab, focused) {
		t.Error("the focus was lost when the page changed")
	}
	do(t, tab, chromedp.KeyEvent(" "))
	await(t, tab, `document.activeElement.getAttribute("aria-checked") === "false"`)
	if status, _ := w.call("/api/2.0/token/create", `{"lifetime_seconds": 60}`); status != 200 {
		t.Error(status)
	}
}

func TestCallsCanBePausedAndFiltered(t *testing.T) {
	t.Parallel()
	w := start(t, "127.0.0.1:0")
	tab := open(t, w, 1280, 900)
	w.call("/api/2.0/before", "{}")
	await(t, tab, `document.getElementById("calls").innerText.includes("/api/2.0/before")`)
	do(t, tab, chromedp.Click("#pause"))
	w.call("/api/2.0/meanwhile", "{}")
	await(t, tab, `document.getElementById("pause").textContent === "Resume, 1 new"`)
	if eval[bool](t, tab, `document.getElementById("calls").innerText.includes("meanwhile")`) {
		t.Error("it isn't paused")
	}
	do(t, tab, chromedp.Click("#pause"))
	await(t, tab, `document.getElementById("calls").innerText.includes("/api/2.0/meanwhile")`)
	w.mint("works", 60)
	await(t, tab, `document.getElementById("calls").innerText.includes("/token/create")`)
	do(t, tab, chromedp.Click("#only-failed"))
	await(t, tab, `!document.getElementById("calls").innerText.includes("/token/create") && document.querySelectorAll("#calls tr").length === 2`)
}

func TestThePageFollowsASimulatorThatIsStartedAgain(t *testing.T) {
	t.Parallel()
	w := start(t, "127.0.0.1:0")
	tab := open(t, w, 1280, 900)
	w.mint("of the first", 3600)
	await(t, tab, row("of the first"))
	w.stop()
	await(t, tab, `document.getElementById("link-text").textContent === "Not connected"`)
	again := start(t, strings.TrimPrefix(w.url, "http://"))
	again.mint("of the second", 3600)
	await(t, tab, row("of the second"))
	await(t, tab, `document.getElementById("link").dataset.state === "live" && !`+row("of the first"))
	await(t, tab, `document.getElementById("calls-total").textContent === "1 so far"`)
}

// contrasts lists the visible texts whose contrast with what is behind them is below 4.5 (WCAG 2.2, 1.4.3).
const contrasts = `(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = (c) => { const [r, g, b] = c.slice(0, 3).map((v) => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const behind = (node) => { for (; node; node = node.parentElement) { const c = rgba(getComputedStyle(node).backgroundColor); if (c[3] > 250) return c; } return [255, 255, 255, 255]; };
  const poor = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !node.checkVisibility() || node.closest(".unseen, script, noscript")) continue;
    const [a, b] = [light(rgba(getComputedStyle(node).color)), light(behind(node))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) poor.push(node.className + " " + texts.currentNode.data.trim() + " " + ratio.toFixed(2));
  }
  return poor;
})()`

// unnamed lists the controls that a screen reader can't name.
const unnamed = `[...document.querySelectorAll("button, input, [tabindex='0']")].filter((c) =>
  !(c.getAttribute("aria-labelledby") ?? "").split(" ").some((id) => document.getElementById(id)?.textContent.trim()) &&
  !c.textContent.trim() && !(c.labels?.[0]?.textContent ?? "").trim()).map((c) => c.outerHTML)`

func TestThePageIsReadableInBothThemesAndAllWidths(t *testing.T) {
	t.Parallel()
	w := start(t, "127.0.0.1:0")
	tab := open(t, w, 1280, 900)
	_, err := chromedp.Call(tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: "dark"}, {Name: "prefers-reduced-motion", Value: "reduce"},
	}})
	must(t, err)
	w.call("/api/2.0/secrets/scopes/create", `{"scope":"`+strings.Repeat("a-long.name_", 10)+`"}`)
	w.call("/api/2.0/secrets/acls/put", `{"scope":"`+strings.Repeat("a-long.name_", 10)+`","principal":"engineers","permission":"READ"}`)
	w.mint("soon "+strings.Repeat("x", 200), 50)
	dead := w.mint("dead", 3600)
	await(t, tab, row("dead"))
	w.call("/api/2.0/token/delete", `{"token_id":"`+dead+`"}`)
	await(t, tab, `document.querySelector(".chip.dead")`)
	do(t, tab, chromedp.Click(`#switches button`))
	await(t, tab, `document.querySelector("#switches [data-on]")`)
	w.call("/api/2.0/"+strings.Repeat("long/", 60), "{}")
	w.mintedFresh(t, tab)

	background := `getComputedStyle(document.body).backgroundColor`
	grounds := map[string]string{}
	for _, theme := range []string{"system", "light", "dark"} {
		await(t, tab, `document.getElementById("theme").textContent === "Theme: `+theme+`"`)
		grounds[theme] = eval[string](t, tab, background)
		if poor := eval[[]string](t, tab, contrasts); len(poor) > 0 {
			t.Errorf("%s: too little contrast: %q", theme, poor)
		}
		do(t, tab, chromedp.Focus("#theme"), chromedp.KeyEvent(kb.Enter))
	}
	if grounds["system"] != grounds["dark"] || grounds["light"] == grounds["dark"] {
		t.Error(grounds)
	}
	if names := eval[[]string](t, tab, unnamed); len(names) > 0 {
		t.Errorf("controls without a name: %q", names)
	}
	for _, width := range []int64{400, 700, 1000, 1600, 2560} {
		do(t, tab, chromedp.EmulateViewport(width, 900))
		if wide := eval[int64](t, tab, `document.documentElement.scrollWidth`); wide > width {
			t.Errorf("at %d the page is %d wide", width, wide)
		}
	}

	do(t, tab, chromedp.Focus("#theme"), chromedp.KeyEvent(kb.Enter), chromedp.Reload())
	await(t, tab, `document.getElementById("theme")?.textContent === "Theme: light"`)
	if eval[string](t, tab, background) != grounds["light"] {
		t.Error("the theme was forgotten")
	}
}

// mintedFresh waits for a row that is marked as new, past the fault that is on.
func (w *workspace) mintedFresh(t *testing.T, tab context.Context) {
	t.Helper()
	do(t, tab, chromedp.Click(`#switches button`))
	await(t, tab, `!document.querySelector("#switches [data-on]")`)
	w.mint("fresh", 3600)
	await(t, tab, `document.querySelector(".chip.fresh")`)
	do(t, tab, chromedp.Click(`#switches button`))
	await(t, tab, `document.querySelector("#switches [data-on]")`)
}
