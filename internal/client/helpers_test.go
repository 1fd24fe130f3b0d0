// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	testToken        = "dapi0123456789abcdef0123456789abcdef"
	testClientSecret = "dose-fedcba9876543210"
	mintedToken      = "dapi-minted-aabbccddeeff0011"
	mintedID         = "5684c955aabbccdd"
	emptyObject      = "{}"
)

var createdBody = fmt.Sprintf(`{"token_value":%q,"token_info":{"token_id":%q,"creation_time":1580265020299,"expiry_time":1580351420299,"comment":"vault","scopes":["sql"]}}`, mintedToken, mintedID)

var aMinute = CreateTokenRequest{Comment: "vault", Lifetime: time.Minute}

func patConfig(host string) Config {
	return Config{Host: host, AuthType: AuthPAT, Token: testToken, UserAgent: "vault-test/1.0", MaxRetries: 2}
}

func oauthConfig(host string) Config {
	return Config{Host: host, AuthType: AuthOAuthM2M, ClientID: "6f5ccf28-d83a-4957-9bfb-5bbfac551410", ClientSecret: testClientSecret, MaxRetries: 2}
}

// newClient makes a client whose back-off is too short to matter, with connections of its own, which a test may change.
func newClient(t testing.TB, cfg Config) *Client {
	t.Helper()
	c, err := New(cfg)
	require.NoError(t, err)
	c.transport.backoffBase = time.Millisecond
	ownConnections(c)
	t.Cleanup(c.transport.base.CloseIdleConnections)
	return c
}

func ownConnections(c *Client) { c.transport.base = c.transport.base.Clone() }

// server is a Databricks of a few lines: it counts requests and answers the first ones with the given handlers, in order,
// and the later ones properly.
type server struct {
	*httptest.Server
	requests atomic.Int64
}

func newServer(t testing.TB, first ...http.HandlerFunc) *server {
	s := &server{}
	s.Server = httptest.NewServer(s.handler(first...))
	t.Cleanup(s.Close)
	return s
}

func (s *server) handler(first ...http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := s.requests.Add(1)
		if int(n) <= len(first) {
			first[n-1](w, r)
			return
		}
		healthy(w, r)
	})
}

// healthy answers as Databricks does when all is well.
func healthy(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Request-Id", "req-1")
	switch {
	case r.URL.Path == "/oidc/v1/token", strings.HasSuffix(r.URL.Path, "/oauth2/token"):
		fmt.Fprint(w, `{"access_token":"access-token-one","token_type":"Bearer","expires_in":3600}`)
	case r.URL.Path == "/api/2.0/token/create":
		fmt.Fprint(w, createdBody)
	case strings.HasSuffix(r.URL.Path, "/Me"):
		w.Header().Set("X-Databricks-Org-Id", "900800700600")
		fmt.Fprint(w, `{"id":"42","userName":"admin@example.com","displayName":"Admin","groups":[{"display":"admins","value":"1"}]}`)
	case r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/api/2.0/token-management/tokens/"):
		fmt.Fprintf(w, `{"token_info":{"token_id":%q,"owner_id":7}}`, mintedID)
	default:
		fmt.Fprint(w, emptyObject)
	}
}

// answer makes a handler that answers with a status, a body and headers given as name, value, ….
func answer(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

// reset reads the request, and then cuts the connection as a crash would.
func reset(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	_ = conn.(*net.TCPConn).SetLinger(0)
	_ = conn.Close()
}

// hang does not answer until the client goes away, which a server notices only once it has read the request.
func hang(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

func envelope(code, message string) string {
	body, err := json.Marshal(map[string]string{"error_code": code, "message": message})
	if err != nil {
		panic(err)
	}
	return string(body)
}

// failureOf returns the error as the type that every method fails with.
func failureOf(t testing.TB, err error) *Error {
	t.Helper()
	require.Error(t, err)
	var e *Error
	require.True(t, errors.As(err, &e), "%T: %v", err, err)
	return e
}

// in returns a context that ends after d.
func in(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
