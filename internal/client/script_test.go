// SPDX-License-Identifier: MPL-2.0

package client

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
)

// script is a server that answers with its handlers in turn, the last of them for ever, and keeps what it was asked.
type script struct {
	*httptest.Server
	mu   sync.Mutex
	asks []asked
}

// asked is one request. The query is decoded, one name=value a line.
type asked struct {
	line, query, body string
	header            http.Header
}

func newScript(t testing.TB, turns ...http.HandlerFunc) *script {
	t.Helper()
	s := &script{}
	s.Server = httptest.NewServer(s.handler(turns...))
	t.Cleanup(s.Close)
	return s
}

func (s *script) handler(turns ...http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		s.mu.Lock()
		s.asks = append(s.asks, asked{r.Method + " " + r.URL.EscapedPath(), lines(r.URL.Query()), string(body), r.Header.Clone()})
		turn := turns[min(len(s.asks), len(turns))-1]
		s.mu.Unlock()
		turn(w, r)
	}
}

// all returns the requests so far.
func (s *script) all() []asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asks)
}

// lastForm returns the form of the last request, as asked does the query.
func (s *script) lastForm() string {
	all := s.all()
	form, _ := url.ParseQuery(all[len(all)-1].body)
	return lines(form)
}

func lines(values url.Values) string {
	var list []string
	for name, some := range values {
		for _, value := range some {
			list = append(list, name+"="+value)
		}
	}
	slices.Sort(list)
	return strings.Join(list, "\n")
}

func accountConfig(host string) Config {
	cfg := oauthConfig(host)
	cfg.AccountID = "0d26daa6-5e44-4c97-a497-ef015f91254a"
	return cfg
}

const accountPath = "/api/2.0/accounts/0d26daa6-5e44-4c97-a497-ef015f91254a"

// onAccount wraps a handler for the API with an account's token endpoint.
func onAccount(api http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/oidc/accounts/0d26daa6-5e44-4c97-a497-ef015f91254a/v1/token" {
			answer(200, `{"access_token":"account-token","token_type":"Bearer","expires_in":3600}`)(w, r)
			return
		}
		api(w, r)
	}
}

// scim makes an error as SCIM does.
func scim(status, detail string) string {
	return `{"schemas":["urn:ietf:params:scim:api:messages:2.0:Error"],"detail":` + inJSON(detail) + `,"status":"` + status + `"}`
}
