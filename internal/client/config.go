// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"vault-plugin-secrets-databricks/internal/duration"
)

// The ways to authenticate, named as in Databricks' unified authentication.
const (
	AuthPAT               = "pat"                 // a personal access token
	AuthOAuthM2M          = "oauth-m2m"           // an OAuth secret of a service principal, exchanged for one-hour access tokens
	AuthAzureClientSecret = "azure-client-secret" // a client secret of an app in Entra ID, exchanged for tokens of Entra ID
	AuthOIDC              = "oidc"                // a token of another issuer, exchanged under a federation policy
)

const (
	// DefaultRequestTimeout bounds one attempt, from looking for a connection to the last byte of the answer.
	DefaultRequestTimeout = 20 * time.Second
	// DefaultMaxRetries is how often a failed attempt is repeated unless configured otherwise.
	DefaultMaxRetries = 4
	// CallBudget bounds a whole call with all its waits and retries. It is less than the 60 s and 90 s after which Vault's
	// clients and its rollback give up.
	CallBudget = 50 * time.Second
)

// Config is all that a client knows. Nothing is taken from the environment but the proxy variables HTTP_PROXY, HTTPS_PROXY
// and NO_PROXY.
type Config struct {
	Host           string        // origin as ParseHost returns it
	AuthType       string        // AuthPAT, AuthOAuthM2M, AuthAzureClientSecret or AuthOIDC
	Token          Secret        // for AuthPAT
	ClientID       string        // for AuthOAuthM2M and AuthOIDC: the application id of the service principal
	ClientSecret   Secret        // for AuthOAuthM2M
	AccountID      string        // for hosts that serve an account
	WorkspaceID    string        // sent as X-Databricks-Workspace-Id, for hosts that serve several workspaces
	CACert         string        // PEM certificates to trust beyond the system's
	RequestTimeout time.Duration // per attempt, 0 for DefaultRequestTimeout
	MaxRetries     int           // attempts after the first, 0 for none; one at a time that Databricks named counts half
	RateLimit      float64       // requests per second, 0 for no ceiling of our own
	UserAgent      string        // sent as it is, in place of the SDK's
	Counters       *Counters     // where calls are counted, nil for a private one

	// Now is the clock that Databricks' is compared with by [Client.Clock], nil for time.Now. It must be safe for concurrent
	// use. Waits, time-outs and the lifetimes of access tokens do not follow it.
	Now func() time.Time

	// For AuthAzureClientSecret. The resource id is for a service principal that has yet to enter the workspace.

	AzureTenantID            string // id or domain of the tenant
	AzureClientID            string // application id of the service principal
	AzureClientSecret        Secret
	AzureWorkspaceResourceID string // "/subscriptions/…/workspaces/…", or empty

	// SubjectToken is for AuthOIDC: it returns the JSON web token to exchange, and is called at each exchange. ClientID may be
	// empty then, for a federation policy of the whole account.
	SubjectToken func(ctx context.Context) (Secret, error)
}

// Account reports whether the client works on an account rather than on a workspace: it has an account id, no workspace id,
// and a host that serves accounts, or a loopback one.
func (cfg Config) Account() bool {
	return cfg.AccountID != "" && cfg.WorkspaceID == "" && (IsAccountHost(cfg.Host) || IsLoopback(cfg.Host))
}

// IsAccountHost reports whether an origin, as [ParseHost] returns it, is one that serves accounts only (Databricks
// documentation, account console).
func IsAccountHost(origin string) bool {
	return strings.HasPrefix(origin, "https://accounts.") || strings.HasPrefix(origin, "https://accounts-dod.")
}

// IsAzureHost reports whether an origin is one of Azure Databricks, in all clouds, by their zone (Databricks SDK for Go, environments).
func IsAzureHost(origin string) bool {
	_, host, _ := strings.Cut(origin, "://")
	host, _, _ = strings.Cut(host, ":")
	for _, zone := range []string{".azuredatabricks.net", ".databricks.azure.us", ".databricks.azure.cn"} {
		if strings.HasSuffix(host, zone) {
			return true
		}
	}
	return false
}

// IsLoopback reports whether an origin is on this machine, as a simulated workspace is: a loopback address, or localhost.
func IsLoopback(origin string) bool {
	u, err := url.Parse(origin)
	if err != nil {
		return false
	}
	_, loopback, err := parseHostName(u.Hostname())
	return err == nil && loopback
}

var hostName = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$`)

// ParseHost returns the origin that a user means: scheme, host and, where it is not the scheme's own, port, in lower case.
// The scheme is https unless given; http is for loopback addresses only. Anything beyond an origin is refused, with an
// error that says what to send instead and never repeats a user part, which may hold a password.
func ParseHost(raw string) (string, error) {
	raw = strings.TrimSpace(raw)
	if raw == "" {
		return "", errors.New("is empty; send the URL of the workspace, such as https://dbc-a1b2c3d4-e5f6.cloud.databricks.com")
	}
	if !strings.Contains(raw, "://") {
		raw = "https://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil || u.Opaque != "" {
		return "", errors.New("is not a URL; send one like https://dbc-a1b2c3d4-e5f6.cloud.databricks.com")
	}
	name, loopback, err := parseHostName(strings.ToLower(u.Hostname()))
	if err != nil {
		return "", err
	}
	switch {
	case u.Scheme == "https", u.Scheme == "http" && loopback:
	case u.Scheme == "http":
		return "", fmt.Errorf("must not be plain http, which would show the credential to the network; send https://%s", name)
	default:
		return "", fmt.Errorf("has a scheme other than https; send https://%s", name)
	}
	origin := u.Scheme + "://" + name
	if port := u.Port(); port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return "", fmt.Errorf("has a port outside 1 to 65535; send %s with a valid one", origin)
		}
		if u.Scheme == "https" && n != 443 || u.Scheme == "http" && n != 80 {
			origin += ":" + strconv.FormatUint(n, 10)
		}
	}
	switch {
	case u.User != nil:
		return "", fmt.Errorf("must not hold a user name or password; send %s", origin)
	case u.Path != "" && u.Path != "/":
		return "", fmt.Errorf("must not have a path; send %s", origin)
	case strings.Contains(raw, "?"):
		return "", fmt.Errorf("must not have a query; send %s", origin)
	case strings.Contains(raw, "#"):
		return "", fmt.Errorf("must not have a fragment; send %s", origin)
	}
	return origin, nil
}

// parseHostName returns a host name or address as it stands in a URL, and whether it is a loopback address.
func parseHostName(name string) (text string, loopback bool, err error) {
	if addr, err := netip.ParseAddr(name); err == nil && addr.Zone() == "" && !addr.Is4In6() {
		if addr.Is6() {
			return "[" + addr.String() + "]", addr.IsLoopback(), nil
		}
		return addr.String(), addr.IsLoopback(), nil
	}
	if len(name) > 253 || !hostName.MatchString(name) {
		return "", false, errors.New("has no valid host name; send one like https://dbc-a1b2c3d4-e5f6.cloud.databricks.com")
	}
	return name, name == "localhost", nil
}

// notInHeader reports whether a credential holds something that no header can carry, such as a pasted newline.
func notInHeader(r rune) bool { return r <= ' ' || r > unicode.MaxASCII || r == 0x7f }

// ValidCredential reports whether a text can be a credential or an id: it holds no space, no control character and nothing
// beyond ASCII. The empty text passes.
func ValidCredential(text string) bool { return !strings.ContainsFunc(text, notInHeader) }

// check returns what is wrong with a config.
func (cfg *Config) check() error {
	if origin, err := ParseHost(cfg.Host); err != nil {
		return fmt.Errorf("host %w", err)
	} else if origin != cfg.Host {
		return fmt.Errorf("host is %q where %q is meant", cfg.Host, origin)
	}
	if err := cfg.checkAuth(); err != nil {
		return err
	}
	if cfg.Account() && !accountIDText.MatchString(cfg.AccountID) {
		return fmt.Errorf("account_id %q is none, which has letters, digits and dashes", cfg.AccountID)
	}
	for _, field := range []struct{ name, value string }{
		{"token", cfg.Token.Reveal()},
		{"client_id", cfg.ClientID},
		{"client_secret", cfg.ClientSecret.Reveal()},
		{"account_id", cfg.AccountID},
		{"workspace_id", cfg.WorkspaceID},
		{"azure_client_id", cfg.AzureClientID},
		{"azure_client_secret", cfg.AzureClientSecret.Reveal()},
		{"azure_workspace_resource_id", cfg.AzureWorkspaceResourceID},
	} {
		if !ValidCredential(field.value) {
			return fmt.Errorf("%s holds a space, a newline or another character that can't be part of it", field.name)
		}
	}
	if strings.ContainsFunc(cfg.UserAgent, func(r rune) bool { return r != ' ' && notInHeader(r) }) {
		return errors.New("user agent holds a character that no header can carry")
	}
	if cfg.RequestTimeout < 0 {
		return fmt.Errorf("request_timeout %s is negative", duration.Text(cfg.RequestTimeout))
	}
	if cfg.MaxRetries < 0 {
		return fmt.Errorf("max_retries %d is negative", cfg.MaxRetries)
	}
	if cfg.RateLimit < 0 || math.IsNaN(cfg.RateLimit) || math.IsInf(cfg.RateLimit, 0) {
		return fmt.Errorf("rate_limit %g is not a number of requests per second", cfg.RateLimit)
	}
	return nil
}

var (
	accountIDText = regexp.MustCompile(`^[A-Za-z0-9-]{1,128}$`)
	tenantText    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?$`)
)

// checkAuth returns what is wrong with how a config authenticates.
func (cfg *Config) checkAuth() error {
	switch cfg.AuthType {
	case AuthPAT:
		if cfg.Token == "" {
			return fmt.Errorf("token is missing, which auth_type %q needs", AuthPAT)
		}
		if cfg.Account() {
			return fmt.Errorf("auth_type %q does not work on an account, whose APIs take no personal access tokens; use another auth_type, or the host of a workspace without account_id", AuthPAT)
		}
	case AuthOAuthM2M:
		if cfg.ClientID == "" || cfg.ClientSecret == "" {
			return fmt.Errorf("client_id or client_secret is missing, and auth_type %q needs both", AuthOAuthM2M)
		}
	case AuthAzureClientSecret:
		if cfg.AzureTenantID == "" || cfg.AzureClientID == "" || cfg.AzureClientSecret == "" {
			return fmt.Errorf("azure_tenant_id, azure_client_id or azure_client_secret is missing, and auth_type %q needs all of them", AuthAzureClientSecret)
		}
		if !tenantText.MatchString(cfg.AzureTenantID) {
			return fmt.Errorf("azure_tenant_id %q is neither the id nor the domain of a tenant", cfg.AzureTenantID)
		}
		if _, ok := azureCloudOf(cfg.Host); !ok {
			return fmt.Errorf("auth_type %q is for Azure Databricks, and host %q is none of its hosts, such as https://adb-1234567890123456.7.azuredatabricks.net", AuthAzureClientSecret, cfg.Host)
		}
	case AuthOIDC:
		if cfg.SubjectToken == nil {
			return fmt.Errorf("there is no source of identity tokens, which auth_type %q needs", AuthOIDC)
		}
		if cfg.ClientID == "" && cfg.Account() {
			return fmt.Errorf("client_id is missing, which auth_type %q needs on an account: nothing else there tells who the connection acts as", AuthOIDC)
		}
	default:
		return fmt.Errorf("auth_type %q is not one of %q, %q, %q, %q", cfg.AuthType, AuthPAT, AuthOAuthM2M, AuthAzureClientSecret, AuthOIDC)
	}
	return nil
}

// roots returns the certificates to trust, nil for the system's alone.
func (cfg *Config) roots() (*x509.CertPool, error) {
	if strings.TrimSpace(cfg.CACert) == "" {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM([]byte(cfg.CACert)) {
		return nil, errors.New("ca_cert holds no valid PEM certificate")
	}
	return pool, nil
}
