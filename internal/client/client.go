// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"sync/atomic"
	"time"

	sdkclient "github.com/databricks/databricks-sdk-go/client"
	sdkconfig "github.com/databricks/databricks-sdk-go/config"
	"github.com/databricks/databricks-sdk-go/config/credentials"
	"github.com/databricks/databricks-sdk-go/httpclient"
	"github.com/databricks/databricks-sdk-go/logger"
	"github.com/databricks/databricks-sdk-go/service/iam"
	"github.com/databricks/databricks-sdk-go/service/settings"
	"github.com/databricks/databricks-sdk-go/service/workspace"
	"golang.org/x/time/rate"
)

// The operations, as errors and counters name them.
const (
	opOIDCToken     = "oidc/token"
	opExchange      = "oidc/exchange"
	opEntraToken    = "entra/token"
	opMe            = "scim/me"
	opTokenCreate   = "token/create"
	opTokenList     = "token/list"
	opTokenDelete   = "token/delete"
	opManagedList   = "token-management/list"
	opManagedGet    = "token-management/get"
	opManagedDelete = "token-management/delete"
	opOBOCreate     = "token-management/create-obo"
)

// Client is a connection to one workspace or to one account. It must be made by [New], and needs no closing.
type Client struct {
	transport   *transport
	tokens      *settings.TokensAPI
	managed     *settings.TokenManagementAPI
	currentUser *iam.CurrentUserAPI
	secrets     *workspace.SecretsAPI
	sdk         *sdkclient.DatabricksClient
	grants      grants
	patience    time.Duration // how long a secret that was just made may be unknown to the token endpoint
	account     bool          // works on an account rather than on a workspace
	ownID       string        // application id of the connection's identity, where it is known from the config
	scimBase    string        // path of the SCIM API, ending in a slash
	spBase      string        // path of the service principals that have OAuth secrets, ending in a slash
	counters    *Counters
	lastSuccess atomic.Int64 // nanoseconds since 1970, 0 for never
	tokensSeen  atomic.Pointer[TokensSeen]
}

// New returns a client without making a request. It fails when the config can't work: a host that [ParseHost] did not return,
// an unknown auth type, a missing or malformed credential, certificates that aren't PEM, numbers out of range.
func New(cfg Config) (*Client, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	connections, err := cfg.connections()
	if err != nil {
		return nil, err
	}
	c := &Client{
		counters: cfg.Counters,
		grants:   grants{cfg: &cfg},
		patience: freshSecretPatience,
		scimBase: "/api/2.0/preview/scim/v2/",
		spBase:   "/api/2.0/accounts/servicePrincipals/",
	}
	if cfg.Account() {
		c.account, c.ownID = true, cfg.ClientID
		if cfg.AuthType == AuthAzureClientSecret {
			c.ownID = cfg.AzureClientID
		}
		c.scimBase = "/api/2.0/accounts/" + cfg.AccountID + "/scim/v2/"
		c.spBase = "/api/2.0/accounts/" + cfg.AccountID + "/servicePrincipals/"
	}
	if c.counters == nil {
		c.counters = &Counters{}
	}
	c.transport = &transport{
		origin:         cfg.Host,
		userAgent:      cfg.UserAgent,
		attemptTimeout: cfg.RequestTimeout,
		maxRetries:     cfg.MaxRetries,
		backoffBase:    backoffBase,
		throttle:       newThrottle(),
		loginThrottle:  newThrottle(),
		clock:          clock{now: cfg.Now},
		secrets:        []string{cfg.Token.Reveal(), cfg.ClientSecret.Reveal(), cfg.AzureClientSecret.Reveal()},
		base:           connections,
	}
	if c.transport.attemptTimeout == 0 {
		c.transport.attemptTimeout = DefaultRequestTimeout
	}
	if cfg.Now == nil {
		c.transport.clock.now = time.Now
	}
	if cfg.RateLimit > 0 {
		c.transport.limiter = rate.NewLimiter(rate.Limit(cfg.RateLimit), 1)
	}
	switch cfg.AuthType {
	case AuthPAT:
		c.transport.token = cfg.Token
	case AuthAzureClientSecret:
		cloud, _ := azureCloudOf(cfg.Host)
		c.transport.loginOrigin = cloud.login
		c.transport.cache = c.newCache(opEntraToken, c.grants.own)
		if cfg.AzureWorkspaceResourceID != "" {
			c.transport.resourceID = cfg.AzureWorkspaceResourceID
			c.transport.management = c.newCache(opEntraToken, c.grants.azureManagement)
		}
	case AuthOAuthM2M:
		c.transport.cache = c.newCache(opOIDCToken, c.grants.own)
	case AuthOIDC:
		c.transport.cache = c.newCache(opExchange, c.grants.own)
	}
	sdk, err := newSDK(&cfg, c.transport)
	if err != nil {
		return nil, fmt.Errorf("the SDK refused the config: %s", clean(err.Error(), c.transport.secrets...))
	}
	c.tokens = settings.NewTokens(sdk)
	c.managed = settings.NewTokenManagement(sdk)
	c.currentUser = iam.NewCurrentUser(sdk)
	c.secrets = workspace.NewSecrets(sdk)
	c.sdk = sdk
	return c, nil
}

// LastSuccess returns when Databricks last accepted a call with our credential, the zero time for never.
func (c *Client) LastSuccess() time.Time {
	if at := c.lastSuccess.Load(); at != 0 {
		return time.Unix(0, at).UTC()
	}
	return time.Time{}
}

// do carries out a call: fn makes the SDK send one request. Whatever goes wrong comes back as an [*Error].
func (c *Client) do(ctx context.Context, what call, fn func(context.Context) error) (*call, error) {
	ca := &what
	start := time.Now()
	failure := c.run(ctx, ca, fn)
	c.counters.record(ca, time.Since(start), failure)
	if failure != nil {
		return nil, failure
	}
	if ca.signed {
		c.lastSuccess.Store(time.Now().UnixNano())
	}
	return ca, nil
}

func (c *Client) run(ctx context.Context, ca *call, fn func(context.Context) error) *Error {
	ctx, cancel := context.WithTimeout(ctx, CallBudget)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return ended(ca.op, err, false)
	}
	ctx = context.WithValue(logger.NewContext(ctx, silence{}), callKey{}, ca)
	err := fn(ctx)
	switch {
	case err == nil:
		return nil
	case ca.failure != nil:
		return ca.failure
	case ca.status != 0:
		// The SDK's text would hold the whole answer.
		return unreadable(ca.op, ca.status, "something in it is missing or of the wrong type", "")
	case ctx.Err() != nil:
		return ended(ca.op, ctx.Err(), ca.trips > 0)
	default:
		return notSent(ca.op, "the SDK could not make it")
	}
}

// send makes the SDK send a request for which it has no method that fits. What is sent goes into the query of a GET and into
// the body of a POST; nil is for nothing, and a nil result for an answer of no interest.
func (c *Client) send(ctx context.Context, method, path string, sent, result any) error {
	headers := map[string]string{}
	if method == http.MethodPost {
		headers["Content-Type"] = "application/json"
	}
	if c.sdk.Config.WorkspaceID != "" {
		headers["X-Databricks-Workspace-Id"] = c.sdk.Config.WorkspaceID
	}
	return c.sdk.Do(ctx, method, path, headers, nil, sent, result)
}

// newSDK makes the SDK's client, which must neither find a configuration, nor authenticate, nor wait, nor retry.
func newSDK(cfg *Config, t *transport) (*sdkclient.DatabricksClient, error) {
	sdkCfg := &sdkconfig.Config{
		Host:          cfg.Host,
		AccountID:     cfg.AccountID,
		WorkspaceID:   cfg.WorkspaceID,
		AuthType:      cfg.AuthType,
		Loaders:       []sdkconfig.Loader{nothing{}},
		Credentials:   unsigned{name: cfg.AuthType},
		HTTPTransport: t,
		HostMetadataResolver: func(context.Context, string) (*sdkconfig.HostMetadata, error) {
			return nil, nil
		},
	}
	clientCfg, err := sdkconfig.HTTPClientConfigFromConfig(sdkCfg)
	if err != nil {
		return nil, err
	}
	clientCfg.ErrorRetriable = func(context.Context, error) bool { return false }
	clientCfg.TransientErrors = nil
	clientCfg.RateLimitPerSecond = math.MaxInt32
	clientCfg.HTTPTimeout = 2 * CallBudget
	clientCfg.RetryTimeout = 2 * CallBudget
	clientCfg.Transport = t
	// The SDK completes its config on the first request, without a lock for those who read it meanwhile. So we make it do so.
	if err := sdkCfg.Authenticate(&http.Request{Header: http.Header{}}); err != nil {
		return nil, err
	}
	return sdkclient.NewWithClient(sdkCfg, httpclient.NewApiClient(clientCfg))
}

// nothing loads no configuration. An empty list of loaders would mean the SDK's own: the environment and ~/.databrickscfg.
type nothing struct{}

// Name names the loader.
func (nothing) Name() string { return "nothing" }

// Configure leaves the config as it is.
func (nothing) Configure(*sdkconfig.Config) error { return nil }

// unsigned is a credentials strategy that signs nothing: the transport does, since it may have to use another token for the
// next attempt. The SDK never sees a credential.
type unsigned struct{ name string }

// Name returns the auth type.
func (u unsigned) Name() string { return u.name }

// Configure returns a provider that leaves requests as they are.
func (unsigned) Configure(context.Context, *sdkconfig.Config) (credentials.CredentialsProvider, error) {
	return credentials.CredentialsProviderFn(func(*http.Request) error { return nil }), nil
}

// silence is a logger that drops everything: the SDK's debug log masks too little.
type silence struct{}

// The SDK logs with no context of ours in some places.
func init() { logger.DefaultLogger = silence{} }

// Enabled is always false.
func (silence) Enabled(context.Context, logger.Level) bool { return false }

// Tracef does nothing.
func (silence) Tracef(context.Context, string, ...any) {}

// Debugf does nothing.
func (silence) Debugf(context.Context, string, ...any) {}

// Infof does nothing.
func (silence) Infof(context.Context, string, ...any) {}

// Warnf does nothing.
func (silence) Warnf(context.Context, string, ...any) {}

// Errorf does nothing.
func (silence) Errorf(context.Context, string, ...any) {}
