// SPDX-License-Identifier: MPL-2.0

// Command screenshots takes the pictures of docs/: the page of a simulated workspace, in both themes, while leases of a real Vault
// are born and die. It sets everything up by scripts/demo.sh --stay.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/chromedp/chromedp"

	"vault-plugin-secrets-databricks/test/page/browser"
)

const (
	width, height = 1280, 1000

	// largest is how big a picture may be.
	largest = 150 << 10
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, "../.."); err != nil {
		fmt.Fprintln(os.Stderr, "screenshots:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, root string) error {
	chromium, err := browser.Find()
	if err != nil {
		return err
	}
	w, err := startDemo(ctx, root)
	if err != nil {
		return err
	}
	defer w.stop()
	if err := w.furnish(ctx); err != nil {
		return err
	}

	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	tab, closeTab := browser.Open(ctx, chromium)
	defer closeTab()
	if err := chromedp.Do(tab, chromedp.EmulateViewport(width, height), chromedp.Navigate(w.page)); err != nil {
		return err
	}
	if err := w.birthAndDeath(ctx, tab); err != nil {
		return err
	}
	for _, theme := range []string{"light", "dark"} {
		if _, err := chromedp.Run(tab, chromedp.Evaluate[chromedp.Void](`setTheme("`+theme+`")`)); err != nil {
			return err
		}
		// Colours fade in, for 1.2 seconds at most.
		if err := chromedp.Do(tab, chromedp.Sleep(1400*time.Millisecond)); err != nil {
			return err
		}
		raw, err := chromedp.Run(tab, chromedp.CaptureScreenshot())
		if err != nil {
			return err
		}
		picture, err := png.Decode(bytes.NewReader(raw))
		if err != nil {
			return err
		}
		if err := write(filepath.Join(root, "docs", "simulator-"+theme+".png"), picture); err != nil {
			return err
		}
	}
	return nil
}

// demo is scripts/demo.sh --stay.
type demo struct {
	cmd                *exec.Cmd
	vault, token, page string
}

func startDemo(ctx context.Context, root string) (*demo, error) {
	d := &demo{cmd: exec.Command(filepath.Join(root, "scripts/demo.sh"), "--stay")}
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	d.cmd.Stderr = os.Stderr
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, d.stop)
	defer stop()
	page := regexp.MustCompile(`http://\S+/simulator/`)
	access := regexp.MustCompile(`VAULT_ADDR=(\S+) VAULT_TOKEN=(\S+)`)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if found := page.FindString(lines.Text()); found != "" && d.page == "" {
			d.page = found
		}
		if found := access.FindStringSubmatch(lines.Text()); found != nil {
			d.vault, d.token = found[1], found[2]
		}
		if strings.Contains(lines.Text(), "Ctrl-C ends it all") {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return d, nil
		}
	}
	return nil, errors.Join(errors.New("scripts/demo.sh ended before it was set up"), d.cmd.Wait())
}

func (d *demo) stop() {
	_ = d.cmd.Process.Signal(os.Interrupt)
	_ = d.cmd.Wait()
}

// call sends a request to Vault, and returns the answer's lease id.
func (d *demo) call(ctx context.Context, method, path string, body map[string]any) (lease string, err error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, method, d.vault+"/v1/"+path, bytes.NewReader(encoded))
	if err != nil {
		return "", err
	}
	req.Header.Set("X-Vault-Token", d.token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode >= 300 {
		return "", fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, raw)
	}
	var answer struct {
		LeaseID string `json:"lease_id"`
	}
	_ = json.Unmarshal(raw, &answer) // there may be none
	return answer.LeaseID, nil
}

// furnish makes what the pictures show besides the lease.
func (d *demo) furnish(ctx context.Context) error {
	for _, step := range []struct {
		path string
		body map[string]any
	}{
		{"roles/notebook", map[string]any{"credential_type": "pat", "ttl": "20s", "max_ttl": "20s"}},
		{"roles/pipelines", map[string]any{"credential_type": "oauth_secret", "application_id": "6f5ccf28-d83a-4957-9bfb-5bbfac551410", "ttl": "1h", "max_ttl": "8h"}},
		{"scopes/etl", nil},
		{"secrets/etl", map[string]any{"secrets": map[string]string{"api-key": "-", "db/user": "-", "db/password": "-"}}},
		{"acls/etl/engineers", map[string]any{"permission": "READ", "ttl": "1h"}},
		{"static-roles/dash", map[string]any{"credential_type": "pat", "rotation_period": "168h", "deliver_scope": "etl", "deliver_key": "dash-token"}},
		{"uc-secrets/main/app/api-key", map[string]any{"string_value": "-"}},
		{"creds/pipelines", nil},
		{"creds/etl", nil},
	} {
		if _, err := d.call(ctx, "POST", "databricks/"+step.path, step.body); err != nil {
			return err
		}
	}
	return nil
}

// birthAndDeath brings the page to a moment at which one lease has just ended, and one has just begun in spite of a fault.
func (d *demo) birthAndDeath(ctx context.Context, tab context.Context) error {
	if _, err := d.call(ctx, "POST", "databricks/creds/notebook", nil); err != nil {
		return err
	}
	if err := await(ctx, tab, `document.querySelector("#switches button")`); err != nil {
		return err
	}
	if err := chromedp.Do(tab, chromedp.Evaluate[chromedp.Void](`document.querySelector("[aria-labelledby=fault-flaky]").click()`)); err != nil {
		return err
	}
	if err := await(ctx, tab, `document.querySelector("#switches [data-on]")`); err != nil {
		return err
	}
	if err := await(ctx, tab, `document.querySelector("#credentials .chip.dead")`); err != nil {
		return err
	}
	for range 4 {
		if _, err := d.call(ctx, "LIST", "databricks/scopes", nil); err != nil {
			return err
		}
	}
	// One in three is hit by the fault: what can't be repeated safely fails.
	_, err := d.call(ctx, "POST", "databricks/creds/etl", nil)
	for try := 1; err != nil && try < 3; try++ {
		_, err = d.call(ctx, "POST", "databricks/creds/etl", nil)
	}
	if err != nil {
		return err
	}
	return await(ctx, tab, `document.querySelector("#credentials .chip.fresh")`)
}

func await(ctx context.Context, tab context.Context, expression string) error {
	for {
		is, err := chromedp.Run(tab, chromedp.Evaluate[bool]("!!("+expression+")"))
		if err != nil || is {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("awaited in vain: %s", expression)
		}
	}
}

// write stores a picture with a palette, which is smaller.
func write(path string, picture image.Image) error {
	var buf bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	if err := encoder.Encode(&buf, paletted(picture)); err != nil {
		return err
	}
	if buf.Len() > largest {
		return fmt.Errorf("%s has %d bytes, more than %d", path, buf.Len(), largest)
	}
	fmt.Printf("%s: %d bytes\n", path, buf.Len())
	return os.WriteFile(path, buf.Bytes(), 0o644)
}

// paletted is the picture in its 256 most frequent colours.
func paletted(picture image.Image) *image.Paletted {
	counts := map[color.RGBA]int{}
	bounds := picture.Bounds()
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			counts[color.RGBAModel.Convert(picture.At(x, y)).(color.RGBA)]++
		}
	}
	var colors []color.RGBA
	for c := range counts {
		colors = append(colors, c)
	}
	slices.SortFunc(colors, func(a, b color.RGBA) int { return counts[b] - counts[a] })
	var palette color.Palette
	for _, c := range colors[:min(256, len(colors))] {
		palette = append(palette, c)
	}
	small := image.NewPaletted(bounds, palette)
	draw.Draw(small, bounds, picture, bounds.Min, draw.Src)
	return small
}
