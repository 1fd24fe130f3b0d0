// SPDX-License-Identifier: MPL-2.0

package page

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const pathCreate = "/api/2.0/token/create"

// start runs a workspace with its page, and returns the token of an admin.
func start(t *testing.T) (p *Page, w *simulator.Workspace, token string) {
	t.Helper()
	p = New()
	w = simulator.New(simulator.WithPage(p.Handler), simulator.WithObserver(p.Observe))
	t.Cleanup(w.Close)
	token, _ = w.AddToken(w.AddUser("admin@example.com", true), "", 0)
	return p, w, token
}

func send(t *testing.T, method, url, body string, header ...string) (status int, answer string, h http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(raw), resp.Header
}

func api(t *testing.T, w *simulator.Workspace, token, path, body string) (status int, answer string) {
	t.Helper()
	status, answer, _ = send(t, "POST", w.URL()+path, body, "Authorization", "Bearer "+token)
	return status, answer
}

// stream is what a follower has been sent.
type stream struct {
	lines *bufio.Scanner
	close func()
	event string              // whose data comes next
	heard map[string][]string // data by event, not yet looked at
	all   strings.Builder
}

func follow(t *testing.T, w *simulator.Workspace) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", w.URL()+pathEvents, nil)
	require.NoError(t, err)
	resp, err := (&http.Transport{}).RoundTrip(req)
	require.NoError(t, err)
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	s := &stream{lines: bufio.NewScanner(resp.Body), heard: map[string][]string{}, close: func() { cancel(); resp.Body.Close() }}
	s.lines.Buffer(nil, 1<<24)
	t.Cleanup(s.close)
	return s
}

// next waits for an event of a name that satisfies the test, and drops those of that name before it.
func next[T any](t *testing.T, s *stream, event string, wanted func(T) bool) T {
	t.Helper()
	for {
		for len(s.heard[event]) > 0 {
			var v T
			require.NoError(t, json.Unmarshal([]byte(s.heard[event][0]), &v))
			s.heard[event] = s.heard[event][1:]
			if wanted(v) {
				return v
			}
		}
		require.True(t, s.lines.Scan(), "the stream ended: %v", s.lines.Err())
		line := s.lines.Text()
		s.all.WriteString(line)
		if name, ok := strings.CutPrefix(line, "event: "); ok {
			s.event = name
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			s.heard[s.event] = append(s.heard[s.event], data)
		}
	}
}

type stateEvent struct {
	State struct {
		simulator.Outline
		Faults []fault
	}
}

type callsEvent struct {
	First  bool
	Missed int
	Total  int
	Calls  []call
}

func TestThePageIsServedBesideTheAPI(t *testing.T) {
	t.Parallel()
	_, w, _ := start(t)
	status, body, header := send(t, "GET", w.URL()+simulator.PagePath, "")
	require.Equal(t, 200, status)
	require.Contains(t, body, "<title>Simulated workspace</title>")
	require.Equal(t, policy, header.Get("Content-Security-Policy"))
	require.Equal(t, "nosniff", header.Get("X-Content-Type-Options"))
	require.Equal(t, "no-store", header.Get("Cache-Control"))
	for file, kind := range map[string]string{"page.js": "text/javascript", "theme.js": "text/javascript", "page.css": "text/css", "icon.svg": "image/svg+xml"} {
		status, _, header := send(t, "GET", w.URL()+simulator.PagePath+file, "")
		require.Equal(t, 200, status, file)
		require.Contains(t, header.Get("Content-Type"), kind)
		require.NotEmpty(t, header.Get("Content-Security-Policy"))
	}
	status, _, header = send(t, "GET", w.URL()+"/", "", "Accept", "text/html,*/*")
	require.Equal(t, 302, status)
	require.Equal(t, simulator.PagePath, header.Get("Location"))

	status, _, _ = send(t, "GET", w.URL()+"/", "")
	require.Equal(t, 404, status) // a program that asks for the root is told what a workspace says
	status, _, _ = send(t, "GET", w.URL()+simulator.PagePath+"..%2fcalls.go", "")
	require.Equal(t, 404, status)
	require.Equal(t, 1, w.Count("", "*")) // the page's own requests are no calls
}

// TestThePageNeedsNothingThatItsPolicyForbids reads the files, where the browser would only complain.
func TestThePageNeedsNothingThatItsPolicyForbids(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("assets/*")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		raw, err := os.ReadFile(file)
		require.NoError(t, err)
		text := strings.ReplaceAll(string(raw), "http://www.w3.org/2000/svg", "") // a name
		require.NotRegexp(t, `(https?:)?//[a-z0-9]+\.[a-z]`, text, file)
		require.NotRegexp(t, `\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|DOMParser|srcdoc)\b`, text, file)
		require.NotRegexp(t, `<[^>]*\s(on[a-z]+|style)=|<style|<script>|@import|javascript:`, text, file)
	}
}

func TestFollowersSeeStateAndCallsButNoValues(t *testing.T) {
	t.Parallel()
	_, w, token := start(t)
	s := follow(t, w)
	next(t, s, "state", func(e stateEvent) bool { return len(e.State.Credentials) == 1 })
	require.True(t, next(t, s, "calls", func(callsEvent) bool { return true }).First)

	status, made := api(t, w, token, pathCreate, `{"comment":"for dapi0123456789abcdef0123456789abcdef","lifetime_seconds":60}`)
	require.Equal(t, 200, status, made)
	var minted struct {
		Value string `json:"token_value"`
		Info  struct {
			ID string `json:"token_id"`
		} `json:"token_info"`
	}
	require.NoError(t, json.Unmarshal([]byte(made), &minted))
	api(t, w, token, "/api/2.0/secrets/scopes/create", `{"scope":"etl"}`)
	api(t, w, token, "/api/2.0/secrets/put", `{"scope":"etl","key":"db","string_value":"not-to-be-seen"}`)
	api(t, w, token, "/api/2.0/"+minted.Info.ID+"/"+token+"?x=not-to-be-seen", "")

	state := next(t, s, "state", func(e stateEvent) bool { return e.State.Totals.Secrets == 1 }).State
	require.Equal(t, "db", state.Scopes[0].Keys[0].Name)
	require.Equal(t, []simulator.OutlineACL{{Principal: "admin@example.com", Permission: "MANAGE"}}, state.Scopes[0].ACLs)
	require.Equal(t, minted.Info.ID[:12], state.Credentials[0].ID)
	require.Equal(t, "for dapi…", state.Credentials[0].Comment)
	require.EqualValues(t, 60_000, state.Credentials[0].Expires-state.Credentials[0].Created)
	last := next(t, s, "calls", func(e callsEvent) bool { return e.Total == 4 })
	require.Equal(t, "/api/2.0/"+minted.Info.ID[:8]+"…/dapi…", last.Calls[len(last.Calls)-1].Path)

	api(t, w, minted.Value, "/api/2.0/token/delete", `{"token_id":"`+minted.Info.ID+`"}`)
	next(t, s, "state", func(e stateEvent) bool { return e.State.Totals.Credentials == 1 })
	for _, secret := range []string{token, minted.Value, minted.Info.ID, "not-to-be-seen", "dapi0123456789abcdef"} {
		require.NotContains(t, s.all.String(), secret)
	}
}

func TestFaultsAreSwitchedOnAndOff(t *testing.T) {
	t.Parallel()
	_, w, token := start(t)
	s := follow(t, w)
	change := func(body string) (int, string) {
		status, answer, _ := send(t, "POST", w.URL()+pathFaults, body, "Content-Type", "application/json", "Origin", w.URL(), "Sec-Fetch-Site", "same-origin")
		return status, answer
	}
	for range 2 { // the second is in force already
		status, answer := change(`{"fault":"throttled","on":true}`)
		require.Equal(t, 200, status)
		require.Contains(t, answer, `"id":"throttled"`)
	}
	status, _, header := send(t, "POST", w.URL()+pathCreate, "{}", "Authorization", "Bearer "+token)
	require.Equal(t, 429, status)
	require.Equal(t, "2", header.Get("Retry-After"))
	next(t, s, "state", func(e stateEvent) bool { f := e.State.Faults[1]; return f.ID == "throttled" && f.On && f.Hits == 1 })
	require.True(t, next(t, s, "calls", func(e callsEvent) bool { return e.Total == 1 }).Calls[0].Fault)
	for range 2 {
		status, _ = change(`{"fault":"throttled","on":false}`)
		require.Equal(t, 200, status)
	}
	status, _ = api(t, w, token, pathCreate, "{}")
	require.Equal(t, 200, status)

	for _, body := range []string{``, `{}`, `{"fault":"down"}`, `{"fault":"down","on":"yes"}`, `{"fault":"down","on":true,"for":1}`, `{"fault":"down","on":true}{}`, `[]`, `{"fault":"` + strings.Repeat("x", 2000) + `","on":true}`} {
		status, answer := change(body)
		require.Equal(t, 400, status, body)
		require.NotEmpty(t, answer)
	}
	status, _ = change(`{"fault":"none","on":true}`)
	require.Equal(t, 404, status)
	status, _ = api(t, w, token, pathCreate, "{}")
	require.Equal(t, 200, status)
}

func TestEachFaultDoesWhatItSays(t *testing.T) {
	t.Parallel()
	for _, preset := range presets {
		t.Run(preset.id, func(t *testing.T) {
			t.Parallel()
			p, w, token := start(t)
			require.True(t, p.state.switchFault(preset.id, true))
			before := time.Now()
			req, err := http.NewRequestWithContext(t.Context(), "POST", w.URL()+pathCreate, strings.NewReader("{}"))
			require.NoError(t, err)
			req.Header.Set("Authorization", "Bearer "+token)
			resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
			if preset.id == "lost" {
				require.Error(t, err)
				require.Len(t, w.Tokens(), 2) // carried out
				return
			}
			require.NoError(t, err)
			defer resp.Body.Close()
			switch preset.id {
			case "slow":
				require.Equal(t, 200, resp.StatusCode)
				require.GreaterOrEqual(t, time.Since(before), preset.fault.Delay)
			case "flaky":
				require.Equal(t, 200, resp.StatusCode)
				_, _ = api(t, w, token, pathCreate, "{}")
				status, _ := api(t, w, token, pathCreate, "{}")
				require.Equal(t, 500, status)
			case "login":
				require.Contains(t, resp.Header.Get("Content-Type"), "text/html")
			default:
				require.Equal(t, preset.fault.Status, resp.StatusCode)
			}
			require.Regexp(t, regexp.MustCompile(`^[A-Z].*\.$`), preset.text)
		})
	}
}

func TestOtherSitesAreRefused(t *testing.T) {
	t.Parallel()
	_, w, _ := start(t)
	port := w.URL()[strings.LastIndex(w.URL(), ":"):]
	const on = `{"fault":"down","on":true}`
	for name, try := range map[string]struct {
		method, path string
		header       []string
		status       int
	}{
		"a form":                            {"POST", pathFaults, []string{"Content-Type", "text/plain"}, 415},
		"no type":                           {"POST", pathFaults, nil, 415},
		"a type in disguise":                {"POST", pathFaults, []string{"Content-Type", "text/plain; application/json"}, 415},
		"another site":                      {"POST", pathFaults, []string{"Sec-Fetch-Site", "cross-site"}, 403},
		"another port":                      {"POST", pathFaults, []string{"Sec-Fetch-Site", "same-site", "Origin", "http://127.0.0.1:1"}, 403},
		"an old browser":                    {"POST", pathFaults, []string{"Origin", "https://example.com"}, 403},
		"an origin that is none":            {"POST", pathFaults, []string{"Origin", "null"}, 403},
		"a read by GET":                     {"GET", pathFaults, nil, 404},
		"the stream":                        {"GET", pathEvents, []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "cors"}, 403},
		"the stream as a page":              {"GET", pathEvents, []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"}, 403},
		"a link":                            {"GET", simulator.PagePath, []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"}, 200},
		"the page's script":                 {"GET", simulator.PagePath + "page.js", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"}, 403},
		"another name for this address":     {"GET", simulator.PagePath, []string{"Host", "evil.example.com" + port}, 421},
		"that name, posting to itself":      {"POST", pathFaults, []string{"Host", "evil.example.com" + port, "Origin", "http://evil.example.com" + port, "Content-Type", "application/json"}, 421},
		"a name that begins like loopback":  {"GET", pathEvents, []string{"Host", "localhost.example.com"}, 421},
		"an address that is not loopback":   {"GET", pathEvents, []string{"Host", "192.0.2.1"}, 421},
		"the page, by the name localhost":   {"GET", simulator.PagePath, []string{"Host", "localhost" + port}, 200},
		"the page, by the address of IPv6":  {"GET", simulator.PagePath, []string{"Host", "[::1]" + port}, 200},
		"the page, by an address in 127/8":  {"GET", simulator.PagePath, []string{"Host", "127.0.0.2"}, 200},
		"curl, whose user knows what it is": {"POST", pathFaults, []string{"Content-Type", "application/json"}, 200},
	} {
		if try.method == "POST" && try.status == 403 {
			try.header = append(try.header, "Content-Type", "application/json")
		}
		body := on
		if try.status == 200 {
			body = `{"fault":"down","on":false}`
		}
		status, answer, header := send(t, try.method, w.URL()+try.path, body, try.header...)
		require.Equal(t, try.status, status, "%s: %s", name, answer)
		require.NotEmpty(t, header.Get("Content-Security-Policy"), name)
		require.Empty(t, header.Get("Access-Control-Allow-Origin"), name)
	}
	status, _, _ := send(t, "GET", w.URL()+"/oidc/.well-known/oauth-authorization-server", "")
	require.Equal(t, 200, status, "a fault is on")
}

// pipe is a listener with one connection, which buffers nothing: what its client does not read, the server can't write.
type pipe chan net.Conn

func (p pipe) Accept() (net.Conn, error) {
	if conn, ok := <-p; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}
func (p pipe) Close() error   { return nil }
func (p pipe) Addr() net.Addr { return &net.TCPAddr{} }

func TestAFollowerThatReadsNothingHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	p := New()
	w := simulator.New(simulator.WithObserver(p.Observe))
	t.Cleanup(w.Close)
	token, _ := w.AddToken(w.AddUser("admin@example.com", true), "", 0)
	client, server := net.Pipe()
	listener := make(pipe, 1)
	listener <- server
	close(listener)
	go func() { _ = (&http.Server{Handler: p.Handler(w)}).Serve(listener) }()
	t.Cleanup(func() { client.Close() })
	_, err := io.WriteString(client, "GET "+pathEvents+" HTTP/1.1\r\nHost: localhost\r\n\r\n")
	require.NoError(t, err)
	lazy := &stream{lines: bufio.NewScanner(httputil.NewChunkedReader(afterHeader(t, client))), heard: map[string][]string{}}
	lazy.lines.Buffer(nil, 1<<20)
	require.True(t, next(t, lazy, "calls", func(callsEvent) bool { return true }).First)

	// From here on it reads nothing, until everything has happened.
	const each, callers = 1000, 4
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for range each {
				p.Observe(simulator.Call{Time: time.Now(), Method: "GET", Path: "/", Status: 200})
			}
		})
	}
	all.Wait()
	status, _ := api(t, w, token, pathCreate, "{}")
	require.Equal(t, 200, status)

	shown, missed := 0, 0
	next(t, lazy, "calls", func(e callsEvent) bool {
		require.LessOrEqual(t, len(e.Calls), keptCalls)
		shown += len(e.Calls)
		missed += e.Missed
		return e.Total == each*callers+1
	})
	require.Equal(t, each*callers+1, shown+missed)
	require.Positive(t, missed)
}

// afterHeader reads the header of an answer.
func afterHeader(t *testing.T, r io.Reader) io.Reader {
	t.Helper()
	buffered := bufio.NewReader(r)
	for {
		line, err := buffered.ReadString('\n')
		require.NoError(t, err)
		if line == "\r\n" {
			return buffered
		}
	}
}

func TestThereIsAnEndToFollowers(t *testing.T) {
	t.Parallel()
	p, w, _ := start(t)
	var list []*stream
	for range maxFollowers {
		list = append(list, follow(t, w))
	}
	status, _, _ := send(t, "GET", w.URL()+pathEvents, "")
	require.Equal(t, 503, status)
	list[0].close()
	require.Eventually(t, func() bool { return len(p.followers) == maxFollowers-1 }, 10*time.Second, time.Millisecond)
	next(t, follow(t, w), "state", func(stateEvent) bool { return true })

	w.Close()
	require.Eventually(t, func() bool { return len(p.followers) == 0 }, 10*time.Second, time.Millisecond)
	for list[1].lines.Scan() {
	}
}

func TestLateComersSeeTheLastCalls(t *testing.T) {
	t.Parallel()
	p, w, _ := start(t)
	for i := range keptCalls + 7 {
		p.Observe(simulator.Call{Time: time.Now(), Method: "GET", Path: fmt.Sprint("/", i)})
	}
	e := next(t, follow(t, w), "calls", func(callsEvent) bool { return true })
	require.True(t, e.First)
	require.Zero(t, e.Missed)
	require.Len(t, e.Calls, keptCalls)
	require.Equal(t, "/7", e.Calls[0].Path)
	require.Equal(t, keptCalls+7, e.Calls[keptCalls-1].Number)
	require.Equal(t, keptCalls+7, e.Total)
}

func TestPathsAreCutAndKeptFromCredentials(t *testing.T) {
	t.Parallel()
	require.Equal(t, "/"+strings.Repeat("z", longestPath-1)+"…", shownPath("/"+strings.Repeat("z", 1000)))
	for path, shown := range map[string]string{
		"/api/2.0/token/list": "/api/2.0/token/list",
		"/a\nb":               "/a%0Ab",
		"/dapi0123456789abcdef0123456789abcdef-2/x":          "/dapi…-2/x",
		"/dose0123456789abcdef0123456789abcdef":              "/dose…",
		"/eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl": "/eyJ…",
		"/main.app.dose-planner":                             "/main.app.dose-planner",
		"/token/" + strings.Repeat("0a", 32):                 "/token/0a0a0a0a…",
		"/sp/6f5ccf28-d83a-4957-9bfb-5bbfac551410":           "/sp/6f5ccf28-d83a-4957-9bfb-5bbfac551410",
	} {
		require.Equal(t, shown, shownPath(path))
	}
}
