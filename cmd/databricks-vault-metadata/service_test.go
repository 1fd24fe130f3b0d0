// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const host = "https://dbc-a1b2c3d4-e5f6.cloud.databricks.com"

func TestWhoKnowsTheURLGetsTheToken(t *testing.T) {
	expires := time.Now().Add(time.Hour)
	s := newService(func(context.Context) (accessToken, error) { return accessToken{host, "dapi-secret", expires}, nil }, 1234)
	require.Regexp(t, `^http://127\.0\.0\.1:1234/[A-Z2-7]{26}/token$`, s.url)
	require.NotEqual(t, s.url, newService(nil, 1234).url, "it can't be guessed")

	ask := func(change func(*http.Request)) *http.Response {
		r := httptest.NewRequest(http.MethodGet, s.url, nil)
		r.Header.Set(versionHeader, "1")
		r.Header.Set(hostHeader, host)
		change(r)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		require.Equal(t, "no-store", w.Result().Header.Get("Cache-Control"))
		return w.Result()
	}
	for name, change := range map[string]func(*http.Request){
		"as the SDK asks":           func(*http.Request) {},
		"by the name localhost":     func(r *http.Request) { r.Host = "LocalHost:1234" },
		"with the port of https":    func(r *http.Request) { r.Header.Set(hostHeader, host+":443") },
		"with a slash and capitals": func(r *http.Request) { r.Header.Set(hostHeader, strings.ToUpper(host)+"/") },
		"without a scheme":          func(r *http.Request) { r.Header.Set(hostHeader, strings.TrimPrefix(host, "https://")) },
	} {
		response := ask(change)
		require.Equal(t, 200, response.StatusCode, name)
		require.Equal(t, "application/json", response.Header.Get("Content-Type"))
		var answer map[string]any
		require.NoError(t, json.NewDecoder(response.Body).Decode(&answer))
		require.Equal(t, map[string]any{"access_token": "dapi-secret", "token_type": "Bearer", "expires_on": float64(expires.Unix())}, answer, name)
	}
	for name, refused := range map[string]struct {
		status int
		says   string
		change func(*http.Request)
	}{
		"a name that a web page has given this address": {403, "Host header", func(r *http.Request) { r.Host = "attacker.example.com:1234" }},
		"another port":             {403, "Host header", func(r *http.Request) { r.Host = "127.0.0.1:4321" }},
		"no Host":                  {403, "Host header", func(r *http.Request) { r.Host = "" }},
		"another path":             {404, "DATABRICKS_METADATA_SERVICE_URL", func(r *http.Request) { r.URL.Path = "/token" }},
		"more than the path":       {404, "DATABRICKS_METADATA_SERVICE_URL", func(r *http.Request) { r.URL.Path += "/" }},
		"a POST":                   {405, "GET", func(r *http.Request) { r.Method = http.MethodPost }},
		"a preflight of a browser": {405, "GET", func(r *http.Request) { r.Method = http.MethodOptions }},
		"no version":               {400, versionHeader, func(r *http.Request) { r.Header.Del(versionHeader) }},
		"another version":          {400, versionHeader, func(r *http.Request) { r.Header.Set(versionHeader, "2") }},
		"no workspace":             {400, "DATABRICKS_HOST", func(r *http.Request) { r.Header.Del(hostHeader) }},
		"another workspace":        {400, host, func(r *http.Request) { r.Header.Set(hostHeader, "https://other.cloud.databricks.com") }},
		"the workspace over http":  {400, host, func(r *http.Request) { r.Header.Set(hostHeader, strings.Replace(host, "https", "http", 1)) }},
		"no URL for a workspace":   {400, host, func(r *http.Request) { r.Header.Set(hostHeader, "https://[") }},
	} {
		response := ask(refused.change)
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.Equal(t, refused.status, response.StatusCode, name)
		require.Contains(t, string(body), refused.says, name)
		require.NotContains(t, string(body), "dapi-secret", name)
		require.NotContains(t, string(body), s.path, name)
		require.Empty(t, response.Header.Get("Access-Control-Allow-Origin"))
	}

	s.token = func(context.Context) (accessToken, error) { return accessToken{}, errors.New("Vault is sealed") }
	response := ask(func(*http.Request) {})
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, 503, response.StatusCode)
	require.Contains(t, string(body), "Vault is sealed")
}

func TestItListensOnlyForThisMachine(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "localhost:8080"} {
		_, err := loopback(address)
		require.NoError(t, err)
	}
	// Loopback, too, but the SDKs refuse them.
	for _, address := range []string{"", ":0", "0.0.0.0:0", "192.168.1.2:80", "[::1]:0", "[::]:0", "127.0.0.2:0", "example.com:0", "127.0.0.1"} {
		_, err := loopback(address)
		require.ErrorContains(t, err, "must be 127.0.0.1 or localhost", address)
	}
}
