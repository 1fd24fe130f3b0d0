// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Headers that Databricks' SDKs send (databricks-sdk-go, config/auth_metadata_service.go).
const (
	versionHeader = "X-Databricks-Metadata-Version"
	hostHeader    = "X-Databricks-Host"

	protocolVersion = "1"
)

// service is the metadata service. Whoever knows its URL gets the access token.
type service struct {
	token func(context.Context) (accessToken, error)
	url   string
	path  string   // with a part that can't be guessed
	hosts []string // that a request may name in its Host header
}

// newService returns a service at a port of 127.0.0.1.
func newService(token func(context.Context) (accessToken, error), port int) *service {
	s := &service{token: token, path: "/" + rand.Text() + "/token"}
	for _, host := range []string{"127.0.0.1", "localhost"} {
		s.hosts = append(s.hosts, net.JoinHostPort(host, strconv.Itoa(port)))
	}
	s.url = "http://" + s.hosts[0] + s.path
	return s
}

// loopback checks an address to listen on. The SDKs take no other host in a URL than these two.
func loopback(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host != "127.0.0.1" && host != "localhost" {
		return "", fmt.Errorf("-listen %s: must be 127.0.0.1 or localhost and a port, such as 127.0.0.1:0: the tokens are for this machine only", address)
	}
	return net.JoinHostPort("127.0.0.1", port), nil
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	refuse := func(status int, format string, args ...any) {
		http.Error(w, fmt.Sprintf(format, args...), status)
	}
	switch {
	case !slices.Contains(s.hosts, strings.ToLower(r.Host)):
		// A web page can give its own name the address 127.0.0.1, but it can't change the name in the header.
		refuse(http.StatusForbidden, "the Host header must be one of %s", strings.Join(s.hosts, ", "))
		return
	case subtle.ConstantTimeCompare([]byte(r.URL.Path), []byte(s.path)) != 1:
		refuse(http.StatusNotFound, "not found; use the whole DATABRICKS_METADATA_SERVICE_URL")
		return
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		refuse(http.StatusMethodNotAllowed, "only GET is allowed")
		return
	case r.Header.Get(versionHeader) != protocolVersion:
		// No web page can send this header to another origin unless that allows it.
		refuse(http.StatusBadRequest, "the header %s must be %s", versionHeader, protocolVersion)
		return
	}
	token, err := s.token(r.Context())
	if err != nil {
		refuse(http.StatusServiceUnavailable, "no access token: %s", err)
		return
	}
	if origin(r.Header.Get(hostHeader)) != origin(token.host) {
		refuse(http.StatusBadRequest, "the access token is for %s; set DATABRICKS_HOST to that", token.host)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"access_token": token.value,
		"token_type":   "Bearer",
		"expires_on":   token.expires.Unix(),
	})
}

// origin is a host in the form in which two are compared: as SDKs complete one without a scheme.
func origin(host string) string {
	host = strings.ToLower(strings.TrimSpace(host))
	if host != "" && !strings.Contains(host, "://") {
		host = "https://" + host
	}
	parsed, err := url.Parse(host)
	if err != nil || parsed.Host == "" {
		return ""
	}
	return parsed.Scheme + "://" + strings.TrimSuffix(parsed.Host, map[string]string{"https": ":443", "http": ":80"}[parsed.Scheme])
}
