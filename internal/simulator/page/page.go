// SPDX-License-Identifier: MPL-2.0

// Package page is a page of a simulated workspace, for people: which
// credentials live and for how long, who there is, what scopes and schemas
// hold, calls as they come, and faults to switch on.
//
// No value of a credential or secret leaves by it. It answers to loopback names
// only, other sites can neither read nor switch anything, and browsers that
// follow it slow the workspace down by no more than a copy of each call.
package page

import (
	"embed"
	"encoding/json"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"

	"vault-plugin-secrets-databricks/internal/simulator"
)

//go:embed assets
var assets embed.FS

const (
	pathEvents = simulator.PagePath + "events"
	pathFaults = simulator.PagePath + "faults"

	// maxFollowers is how many streams there may be at a time.
	maxFollowers = 16
)

// Page is the page of one workspace. Wire it with [simulator.WithPage] and
// [simulator.WithObserver].
type Page struct {
	calls     calls
	state     state
	followers chan struct{}
}

// New returns a page that has no workspace yet.
func New() *Page { return &Page{followers: make(chan struct{}, maxFollowers)} }

// Observe takes note of a call. It never waits for those who follow the page.
func (p *Page) Observe(c simulator.Call) { p.calls.add(c) }

// Handler serves the page of w, below [simulator.PagePath].
func (p *Page) Handler(w *simulator.Workspace) http.Handler {
	p.state.open(w, p.calls.count)
	files, err := fs.Sub(assets, "assets")
	if err != nil {
		panic(err) // can't be: it is in the binary
	}
	mux := http.NewServeMux()
	mux.Handle("GET "+simulator.PagePath, http.StripPrefix(simulator.PagePath, http.FileServerFS(files)))
	mux.HandleFunc("GET "+pathEvents, p.follow)
	mux.HandleFunc("POST "+pathFaults, p.switchFault)
	return guard(mux)
}

// policy lets the page load its own files and talk to its own origin, and
// nothing else: no inline script or style, no frame around it, no form.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// guard answers only to loopback names, so that no other name can be made to
// point here (DNS rebinding), and keeps other sites from everything but a link
// to the page.
func guard(next http.Handler) http.Handler {
	sameOrigin := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(out http.ResponseWriter, in *http.Request) {
		header := out.Header()
		header.Set("Content-Security-Policy", policy)
		header.Set("X-Frame-Options", "DENY")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		header.Set("Cache-Control", "no-store")
		site := in.Header.Get("Sec-Fetch-Site")
		linked := in.URL.Path == simulator.PagePath && in.Header.Get("Sec-Fetch-Mode") == "navigate"
		switch {
		case !isLoopback(in.Host):
			http.Error(out, "This page answers to 127.0.0.1, [::1] and localhost only.", http.StatusMisdirectedRequest)
		case site != "" && site != "same-origin" && site != "none" && !linked, sameOrigin.Check(in) != nil:
			http.Error(out, "This page can't be used by another site.", http.StatusForbidden)
		default:
			next.ServeHTTP(out, in)
		}
	})
}

func isLoopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// switchFault switches a fault on or off, and answers with all of them.
func (p *Page) switchFault(out http.ResponseWriter, in *http.Request) {
	// A form of another site can't send this type (Fetch standard, CORS-safelisted request-header).
	if in.Header.Get("Content-Type") != "application/json" {
		http.Error(out, "The body must be application/json.", http.StatusUnsupportedMediaType)
		return
	}
	var body struct {
		Fault string `json:"fault"`
		On    *bool  `json:"on"`
	}
	decoder := json.NewDecoder(http.MaxBytesReader(out, in.Body, 1<<10))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&body); err != nil || body.On == nil {
		http.Error(out, `The body must be {"fault": "<id>", "on": true or false}.`, http.StatusBadRequest)
		return
	}
	if _, err := decoder.Token(); err != io.EOF {
		http.Error(out, "There is something after the body.", http.StatusBadRequest)
		return
	}
	if !p.state.switchFault(body.Fault, *body.On) {
		http.Error(out, "There is no such fault.", http.StatusNotFound)
		return
	}
	out.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(out).Encode(map[string]any{"faults": p.state.listFaults()}) // a client that has gone away doesn't matter
}
