// SPDX-License-Identifier: MPL-2.0

// Package browser runs headless Chromium.
package browser

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/chromedp/chromedp"
)

// programs are what Chromium and Chrome are called.
var programs = []string{
	"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
}

// Find returns the path of Chromium: $CHROMIUM, or else the first that is
// installed. It fails with a text that says what to do.
func Find() (string, error) {
	if chosen := os.Getenv("CHROMIUM"); chosen != "" {
		path, err := exec.LookPath(chosen)
		if err != nil {
			return "", fmt.Errorf("CHROMIUM: %w", err)
		}
		return path, nil
	}
	for _, program := range programs {
		if path, err := exec.LookPath(program); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("there is neither Chromium nor Chrome on PATH: install one (on Debian: apt-get install chromium), or set CHROMIUM to its path")
}

// Open starts the browser at path, and returns the context of a tab. The browser
// ends with that context.
func Open(ctx context.Context, path string) (context.Context, context.CancelFunc) {
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path),
		// What the wrapper of a distribution says is no matter of ours.
		chromedp.CombinedOutput(io.Discard))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // Chromium's sandbox doesn't run as root
	}
	allocator, stop := chromedp.NewExecAllocator(ctx, options...)
	tab, closeTab := chromedp.NewContext(allocator)
	return tab, func() { closeTab(); stop() }
}
