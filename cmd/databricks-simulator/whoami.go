// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// whoamiTimeout bounds the whole exchange.
const whoamiTimeout = 30 * time.Second

// whoami asks a workspace whose token it is, and prints the status and the
// answer on one line. It fails if the workspace doesn't know the token.
func whoami(ctx context.Context, env func(string) string, stdout, stderr io.Writer) int {
	host, token := env("DATABRICKS_HOST"), env("DATABRICKS_TOKEN")
	if host == "" || token == "" {
		fmt.Fprintln(stderr, "databricks-simulator whoami: set DATABRICKS_HOST and DATABRICKS_TOKEN")
		return exitUsage
	}
	origin, err := originOf(host)
	if err != nil {
		fmt.Fprintln(stderr, "databricks-simulator whoami: DATABRICKS_HOST", err)
		return exitUsage
	}
	ctx, cancel := context.WithTimeout(ctx, whoamiTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, origin+"/api/2.0/preview/scim/v2/Me?excludedAttributes=entitlements,groups", nil)
	if err != nil { // originOf has parsed it
		panic(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(token))
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "databricks-simulator/"+strings.TrimPrefix(version, "v"))
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		var wrapped *url.Error // names the URL, which the user knows
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		fmt.Fprintf(stderr, "databricks-simulator whoami: can't reach %s: %v\n", origin, err)
		return exitFailed
	}
	defer resp.Body.Close()

	var answer struct {
		UserName    string `json:"userName"`
		DisplayName string `json:"displayName"`
		Message     string `json:"message"`
		Detail      string `json:"detail"`
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	_ = json.Unmarshal(body, &answer)
	status := fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	if resp.StatusCode != http.StatusOK {
		reason := resp.Header.Get("X-Databricks-Reason-Phrase")
		for _, other := range []string{answer.Message, answer.Detail, "no explanation given"} {
			if reason == "" {
				reason = other
			}
		}
		fmt.Fprintf(stdout, "%s — %s\n", status, reason)
		return exitFailed
	}
	if answer.UserName == "" {
		fmt.Fprintf(stdout, "%s — but this is not the answer of a Databricks workspace\n", status)
		return exitFailed
	}
	who := answer.UserName
	if answer.DisplayName != "" && answer.DisplayName != answer.UserName {
		who += ", " + answer.DisplayName
	}
	if id := resp.Header.Get("X-Databricks-Org-Id"); id != "" {
		who += " (workspace " + id + ")"
	}
	fmt.Fprintf(stdout, "%s — %s\n", status, who)
	return exitOK
}

// originOf keeps the scheme and the host of what the user gave. A token is not
// sent in the clear, except to this machine itself.
func originOf(host string) (string, error) {
	if !strings.Contains(host, "://") {
		host = "https://" + host
	}
	u, err := url.Parse(host)
	if err != nil || u.Host == "" {
		return "", errors.New("is not a valid address")
	}
	ip := net.ParseIP(u.Hostname())
	loopback := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	if u.Scheme != "https" && (u.Scheme != "http" || !loopback) {
		return "", errors.New("must begin with https:// (http:// only for loopback)")
	}
	return u.Scheme + "://" + u.Host, nil
}
