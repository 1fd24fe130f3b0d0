// SPDX-License-Identifier: MPL-2.0

package client

import (
	"encoding/pem"
	"math"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseHost(t *testing.T) {
	t.Parallel()
	good := map[string]string{
		"https://dbc-1.cloud.databricks.com":            "https://dbc-1.cloud.databricks.com",
		"https://DBC-1.Cloud.Databricks.COM/":           "https://dbc-1.cloud.databricks.com",
		" adb-1.2.azuredatabricks.net\n":                "https://adb-1.2.azuredatabricks.net",
		"HTTPS://dbc-1.cloud.databricks.com:443":        "https://dbc-1.cloud.databricks.com",
		"dbc-1.cloud.databricks.com:8443":               "https://dbc-1.cloud.databricks.com:8443",
		"https://dbc-1.cloud.databricks.com:":           "https://dbc-1.cloud.databricks.com",
		"https://dbc-1.cloud.databricks.com:0443":       "https://dbc-1.cloud.databricks.com",
		"http://localhost":                              "http://localhost",
		"http://localhost:80/":                          "http://localhost",
		"http://localhost:443":                          "http://localhost:443",
		"http://127.0.0.1:8899":                         "http://127.0.0.1:8899",
		"http://127.8.9.10":                             "http://127.8.9.10",
		"http://[::1]:8899":                             "http://[::1]:8899",
		"https://[2001:DB8:0:0::1]":                     "https://[2001:db8::1]",
		"localhost:8899":                                "https://localhost:8899",
		"https://10.0.0.1":                              "https://10.0.0.1",
		"https://under_score.example":                   "https://under_score.example",
		"https://accounts.cloud.databricks.com":         "https://accounts.cloud.databricks.com",
		"https://dbc-1.cloud.databricks.com:65535":      "https://dbc-1.cloud.databricks.com:65535",
		"https://" + strings.Repeat("a", 200) + ".test": "https://" + strings.Repeat("a", 200) + ".test",
	}
	for raw, want := range good {
		got, err := ParseHost(raw)
		require.NoError(t, err, raw)
		require.Equal(t, want, got, raw)
	}
	bad := map[string]string{
		"":                                    "is empty",
		"  ":                                  "is empty",
		"https://":                            "no valid host name",
		"https://:8443":                       "no valid host name",
		"https://dbc-1.com/api/2.0":           "must not have a path; send https://dbc-1.com",
		"https://dbc-1.com//":                 "must not have a path",
		"https://dbc-1.com/?o=123":            "must not have a query; send https://dbc-1.com",
		"https://dbc-1.com?":                  "must not have a query",
		"https://dbc-1.com#/x":                "must not have a fragment",
		"https://user:hunter2@dbc-1.com":      "must not hold a user name or password; send https://dbc-1.com",
		"user@dbc-1.com":                      "must not hold a user name",
		"https://user:hun#ter2@dbc-1.com":     "is not a URL",
		"http://dbc-1.com":                    "must not be plain http, which would show the credential to the network; send https://dbc-1.com",
		"http://localhost.evil.com":           "must not be plain http",
		"http://[::ffff:127.0.0.1]":           "no valid host name",
		"http://127.1":                        "must not be plain http",
		"ftp://dbc-1.com":                     "has a scheme other than https; send https://dbc-1.com",
		"https://dbc-1.com:0":                 "port outside 1 to 65535",
		"https://dbc-1.com:70000":             "port outside 1 to 65535",
		"https://dbc-1.com:x":                 "is not a URL",
		"https://dbc 1.com":                   "is not a URL",
		"https://dbc-1.com\x00":               "is not a URL",
		"https://-dbc.com":                    "no valid host name",
		"https://dbc.com.":                    "no valid host name",
		"https://bücher.example":              "no valid host name",
		"https://[fe80::1%25eth0]":            "no valid host name",
		"https://" + strings.Repeat("a", 300): "no valid host name",
	}
	for raw, want := range bad {
		got, err := ParseHost(raw)
		require.Error(t, err, raw)
		require.Empty(t, got)
		require.Contains(t, err.Error(), want, raw)
		require.NotContains(t, err.Error(), "hun")
	}
}

func FuzzParseHost(f *testing.F) {
	for _, seed := range []string{"https://dbc-1.cloud.databricks.com", "user:pw@host", "http://[::1]:80", "localhost:8899", "https://a?b#c", "://", "https://a:443/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		origin, err := ParseHost(raw)
		if err != nil {
			require.Empty(t, origin)
			require.False(t, strings.HasPrefix(err.Error(), "host"))
			return
		}
		again, err := ParseHost(origin)
		require.NoError(t, err)
		require.Equal(t, origin, again)
		require.Equal(t, strings.ToLower(origin), origin)
		require.Zero(t, strings.Count(origin, "@")+strings.Count(origin, "?")+strings.Count(origin, "#"))
		require.Equal(t, 2, strings.Count(origin, "/"))
		if rest, plain := strings.CutPrefix(origin, "http://"); plain {
			require.True(t, strings.HasPrefix(rest, "localhost") || strings.HasPrefix(rest, "127.") || strings.HasPrefix(rest, "[::1]"), origin)
		}
		_, err = New(Config{Host: origin, AuthType: AuthPAT, Token: "x"})
		require.NoError(t, err)
	})
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	const (
		host     = "https://dbc-1.cloud.databricks.com"
		accounts = "https://accounts.cloud.databricks.com"
		azure    = "https://adb-1.2.azuredatabricks.net"
	)
	table := []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Host = "" }, "host is empty"},
		{func(c *Config) { c.Host += "/" }, `host is "https://dbc-1.cloud.databricks.com/" where "https://dbc-1.cloud.databricks.com" is meant`},
		{func(c *Config) { c.AuthType = "" }, `auth_type "" is not one of "pat", "oauth-m2m", "azure-client-secret", "oidc"`},
		{func(c *Config) { c.AuthType = "basic" }, `auth_type "basic"`},
		{func(c *Config) { c.Token = "" }, "token is missing"},
		{func(c *Config) { c.Token += "\n" }, "token holds a space"},
		{func(c *Config) { c.AuthType, c.ClientID = AuthOAuthM2M, "id" }, "client_id or client_secret is missing"},
		{func(c *Config) { c.AuthType, c.ClientSecret = AuthOAuthM2M, "secret" }, "client_id or client_secret is missing"},
		{func(c *Config) { c.WorkspaceID = "1\r\nX: y" }, "workspace_id holds a space"},
		{func(c *Config) { c.AccountID = "ä" }, "account_id holds a space"},
		{func(c *Config) { c.Host, c.AccountID = accounts, "abc" }, `auth_type "pat" does not work on an account`},
		{func(c *Config) { c.Host, c.AccountID = "http://127.0.0.1:8899", "abc" }, `auth_type "pat" does not work on an account`},
		{func(c *Config) { *c = oauthConfig(accounts); c.AccountID = "abc/.." }, `account_id "abc/.." is none`},
		{func(c *Config) { *c = azureConfig(host) }, `auth_type "azure-client-secret" is for Azure Databricks, and host "https://dbc-1.cloud.databricks.com"`},
		{func(c *Config) { *c = azureConfig(azure); c.AzureTenantID = "" }, "azure_tenant_id, azure_client_id or azure_client_secret is missing"},
		{func(c *Config) { *c = azureConfig(azure); c.AzureClientID = "" }, "azure_tenant_id, azure_client_id or azure_client_secret is missing"},
		{func(c *Config) { *c = azureConfig(azure); c.AzureClientSecret = "" }, "azure_tenant_id, azure_client_id or azure_client_secret is missing"},
		{func(c *Config) { *c = azureConfig(azure); c.AzureTenantID = "a/b" }, `azure_tenant_id "a/b" is neither`},
		{func(c *Config) { *c = azureConfig(azure); c.AzureTenantID = ".." }, `azure_tenant_id ".." is neither`},
		{func(c *Config) { *c = azureConfig(azure); c.AzureClientID += " " }, "azure_client_id holds a space"},
		{func(c *Config) { *c = azureConfig(azure); c.AzureClientSecret += "\n" }, "azure_client_secret holds a space"},
		{func(c *Config) { *c = azureConfig(azure); c.AzureWorkspaceResourceID = "/a\r\nX: y" }, "azure_workspace_resource_id holds a space"},
		{func(c *Config) { *c = oidcConfig(host); c.SubjectToken = nil }, "there is no source of identity tokens"},
		{func(c *Config) { *c = oidcConfig(accounts); c.AccountID, c.ClientID = "abc", "" }, `client_id is missing, which auth_type "oidc" needs on an account`},
		{func(c *Config) { c.UserAgent = "a\nb" }, "user agent holds"},
		{func(c *Config) { c.RequestTimeout = -1 }, "request_timeout -1ns is negative"},
		{func(c *Config) { c.MaxRetries = -1 }, "max_retries -1 is negative"},
		{func(c *Config) { c.RateLimit = -1 }, "rate_limit -1"},
		{func(c *Config) { c.RateLimit = math.NaN() }, "rate_limit NaN"},
		{func(c *Config) { c.RateLimit = math.Inf(1) }, "rate_limit +Inf"},
		{func(c *Config) { c.CACert = "not a certificate" }, "ca_cert holds no valid PEM certificate"},
	}
	for _, row := range table {
		cfg := patConfig(host)
		row.change(&cfg)
		c, err := New(cfg)
		require.Nil(t, c)
		require.ErrorContains(t, err, row.want)
		require.NotContains(t, err.Error(), testToken)
		require.NotContains(t, err.Error(), azureSecret)
	}
}

func TestAccountMode(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		host, account, workspace string
		want                     bool
	}{
		{"https://accounts.cloud.databricks.com", "abc", "", true},
		{"https://accounts-dod.cloud.databricks.us", "abc", "", true},
		{"https://accounts.azuredatabricks.net", "abc", "", true},
		{"https://accounts.cloud.databricks.com", "", "", false},
		{"https://accounts.cloud.databricks.com", "abc", "1", false},
		{"https://dbc-1.cloud.databricks.com", "abc", "", false},
		{"https://dbc-1.accounts.databricks.com", "abc", "", false},
		{"http://localhost:8899", "abc", "", true},
		{"https://127.0.0.1:8899", "abc", "", true},
		{"http://[::1]", "abc", "", true},
		{"http://localhost:8899", "abc", "1", false},
		{"http://localhost:8899", "", "", false},
		{"https://localhost.evil.com", "abc", "", false},
	} {
		require.Equal(t, row.want, Config{Host: row.host, AccountID: row.account, WorkspaceID: row.workspace}.Account(), "%+v", row)
	}
	require.True(t, IsAccountHost("https://accounts.gcp.databricks.com"))
	require.False(t, IsAccountHost("http://localhost"))
	require.False(t, IsLoopback("://"))
}

func TestValidCredential(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", testToken, "a/b+c=~!\"'{}"} {
		require.True(t, ValidCredential(text), text)
	}
	for _, text := range []string{" ", "a b", "a\n", "\ta", "a\x00", "a\x7f", "é", "a\u200b", "\xff"} {
		require.False(t, ValidCredential(text), "%q", text)
	}
}

func TestNewDefaults(t *testing.T) {
	t.Parallel()
	cfg := patConfig("https://dbc-1.cloud.databricks.com")
	c, err := New(cfg)
	require.NoError(t, err)
	require.Equal(t, DefaultRequestTimeout, c.transport.attemptTimeout)
	require.Nil(t, c.transport.limiter)
	require.Nil(t, c.transport.base.TLSClientConfig.RootCAs, "the system's")
	require.True(t, c.LastSuccess().IsZero())

	donor := httptest.NewTLSServer(nil)
	t.Cleanup(donor.Close)
	cfg.CACert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: donor.Certificate().Raw}))
	cfg.RequestTimeout, cfg.Counters = time.Second, &Counters{}
	c, err = New(cfg)
	require.NoError(t, err)
	require.Equal(t, time.Second, c.transport.attemptTimeout)
	require.Same(t, cfg.Counters, c.counters)
	require.NotNil(t, c.transport.base.TLSClientConfig.RootCAs)
}
