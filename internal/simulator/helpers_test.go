// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/databricks/databricks-sdk-go/client"
	"github.com/databricks/databricks-sdk-go/config"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const (
	pathMe      = "/api/2.0/preview/scim/v2/Me"
	pathCreate  = "/api/2.0/token/create"
	pathList    = "/api/2.0/token/list"
	pathDelete  = "/api/2.0/token/delete"
	pathManaged = "/api/2.0/token-management/tokens"
	pathOIDC    = "/oidc/v1/token"
)

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock {
	return &clock{now: time.Date(2026, 10, 1, 12, 0, 0, 123456789, time.UTC)}
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// start runs a workspace until the end of the test.
func start(t testing.TB, opts ...simulator.Option) *simulator.Workspace {
	t.Helper()
	w := simulator.New(opts...)
	t.Cleanup(w.Close)
	return w
}

// noLoader keeps the SDK from reading the environment and ~/.databrickscfg.
type noLoader struct{}

func (noLoader) Name() string                   { return "none" }
func (noLoader) Configure(*config.Config) error { return nil }

// sdk is the official client with a PAT.
func sdk(t testing.TB, w *simulator.Workspace, token string) *client.DatabricksClient {
	t.Helper()
	return sdkWith(t, &config.Config{Host: w.URL(), Token: token, Credentials: config.PatCredentials{}})
}

// sdkM2M is the official client with an OAuth secret.
func sdkM2M(t testing.TB, w *simulator.Workspace, clientID, secret string) *client.DatabricksClient {
	t.Helper()
	return sdkWith(t, &config.Config{Host: w.URL(), ClientID: clientID, ClientSecret: secret, Credentials: config.M2mCredentials{}})
}

func sdkWith(t testing.TB, cfg *config.Config) *client.DatabricksClient {
	t.Helper()
	cfg.Loaders = []config.Loader{noLoader{}}
	cfg.RateLimitPerSecond = 1 << 20
	c, err := client.New(cfg)
	require.NoError(t, err)
	return c
}

// answer is a reply as it was on the wire.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) json(t testing.TB) map[string]any {
	t.Helper()
	var v map[string]any
	require.NoError(t, json.Unmarshal([]byte(a.body), &v), a.body)
	return v
}

// try sends one request on a connection of its own.
func try(w *simulator.Workspace, method, target, token, body string, header ...string) (answer, error) {
	req, err := http.NewRequest(method, w.URL()+target, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	var buf bytes.Buffer
	_, err = io.Copy(&buf, resp.Body)
	return answer{resp.StatusCode, resp.Header, buf.String()}, err
}

func send(t testing.TB, w *simulator.Workspace, method, target, token, body string, header ...string) answer {
	t.Helper()
	a, err := try(w, method, target, token, body, header...)
	require.NoError(t, err)
	return a
}

// mint creates a token over the wire, and returns its value and id.
func mint(t testing.TB, w *simulator.Workspace, token, body string) (value, id string) {
	t.Helper()
	a := send(t, w, "POST", pathCreate, token, body)
	require.Equal(t, 200, a.status, a.body)
	made := a.json(t)
	return made["token_value"].(string), made["token_info"].(map[string]any)["token_id"].(string)
}

// grant asks the token endpoint with credentials in the form.
func grant(t testing.TB, w *simulator.Workspace, clientID, secret, scope string) answer {
	t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {clientID}, "client_secret": {secret}}
	if scope != "" {
		form.Set("scope", scope)
	}
	return send(t, w, "POST", pathOIDC, "", form.Encode(), "Content-Type", "application/x-www-form-urlencoded")
}

// requireRefused checks status and code in the standard envelope.
func requireRefused(t testing.TB, a answer, status int, code any) {
	t.Helper()
	require.Equal(t, status, a.status, a.body)
	require.Equal(t, code, a.json(t)["error_code"])
	require.NotEmpty(t, a.json(t)["message"])
}
