// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// defaultTokenQuota is the number of live personal access tokens that one
	// principal may have in one workspace (Databricks resource limits).
	defaultTokenQuota = 600

	// defaultMaxTokenLifetime is the lifetime policy of a workspace that never
	// set maxTokenLifetimeDays (Databricks token management guide).
	defaultMaxTokenLifetime = 730 * 24 * time.Hour

	defaultWorkspaceID = "5206439413157315"
)

// Workspace is a running simulated workspace. All methods are safe for
// concurrent use.
type Workspace struct {
	settings  settings
	url       string
	caCert    string
	server    *http.Server
	stop      func()
	served    chan struct{}
	closeOnce sync.Once

	calls  callLog
	faults faultList

	// mu guards everything below.
	mu                sync.Mutex
	principals        map[string]*principal // by SCIM id
	byName            map[string]*principal // by user name or application id
	servicePrincipals []*principal          // in order of creation
	addedPrincipals   int                   // ever
	groups            map[string]*group     // by SCIM id
	groupsByName      map[groupName]*group
	addedGroups       int // ever
	users, admins     *group
	tokens            map[string]*token         // by token id, dead ones included
	ordered           []*token                  // in order of creation, dead ones included
	access            map[string]*accessToken   // by hash, dead ones included
	granted           []*accessToken            // in order of creation; dead ones are swept out at times
	grantedSwept      int                       // how many were left by the last sweep
	secrets           map[string]*oauthSecret   // by secret id, without deleted ones
	addedSecrets      int                       // ever
	databases         map[string]string         // hosts by name
	logins            map[string]*databaseLogin // by hash
	policies          []*federationPolicy       // of principals and of the account
	entraApps         map[entraID]*entraApp     // of Microsoft Entra ID
	scopes            map[string]*secretScope   // by name in lower case
	ucSchemas         map[string]*ucSchema      // by catalog and schema in lower case
	ucMetastore       string                    // id

	secretReadsRefused bool
	aclDelay           int            // stale reads after each change of an ACL
	allowedAddresses   []netip.Prefix // empty = all
	authDown           []string       // kinds of token
}

// Option changes a setting of a workspace before it starts.
type Option func(*settings)

type settings struct {
	addr             string
	tls              bool
	now              func() time.Time
	seed             uint64
	workspaceID      string
	tokenQuota       int
	maxTokenLifetime time.Duration
	deleteAbsent     DeleteAbsentForm
	scopeLimit       int
	secretLimit      int
	lastSpelling     bool
	withoutPremium   bool
	azureKeyVault    bool
	cloud            string
	accountID        string
	unified          bool
	azureResourceID  string
	principalLimit   int
	quotaStatus      int
	quotaCode        string
	killTokens       bool
	statuses         map[string]int // by code
	allowedAddresses []string
	authDown         []string
	noSecretScopes   bool
	addedScopes      []string
	scopesCut        bool
	noUCSecrets      bool
	ucSecretLimit    int
	ucPage           int
	ucTimes          time.Duration // 0 for microseconds
	noCallLog        bool
	observer         func(Call)
	page             func(*Workspace) http.Handler

	accessTokenLifetime time.Duration
}

// WithAddr listens on addr, "host:port" with a loopback host ("localhost",
// 127.0.0.0/8 or ::1). Port 0, which is the default, picks a free one.
func WithAddr(addr string) Option { return func(s *settings) { s.addr = addr } }

// WithTLS serves https with a self-signed certificate, see [Workspace.CACert].
func WithTLS() Option { return func(s *settings) { s.tls = true } }

// WithClock makes now the workspace's time: creation, expiry, the call log and
// the Date header of answers follow it. Delays of faults do not. It must be safe
// for concurrent use.
func WithClock(now func() time.Time) Option { return func(s *settings) { s.now = now } }

// WithSeed sets the seed of faults with a [Fault.Share], 0 if unset.
func WithSeed(seed uint64) Option { return func(s *settings) { s.seed = seed } }

// WithWorkspaceID sets the numeric workspace id.
func WithWorkspaceID(id string) Option { return func(s *settings) { s.workspaceID = id } }

// WithTokenQuota sets how many live tokens one principal may have, 600 if unset.
func WithTokenQuota(n int) Option { return func(s *settings) { s.tokenQuota = n } }

// WithMaxTokenLifetime sets the longest lifetime of new tokens, in whole
// seconds, 730 days if unset. It is also the lifetime of a token that was
// created without one.
func WithMaxTokenLifetime(d time.Duration) Option {
	return func(s *settings) { s.maxTokenLifetime = d }
}

// WithCloud says where the workspace runs: "aws", which is the default, "azure"
// or "gcp". On Azure, tokens on behalf of service principals are refused, and
// service principals may be created with the application id of an app in
// Microsoft Entra ID.
func WithCloud(cloud string) Option { return func(s *settings) { s.cloud = strings.ToLower(cloud) } }

// clouds are their names in the metadata of a host.
var clouds = map[string]string{"aws": "AWS", "azure": "Azure", "gcp": "GCP"}

// DeleteAbsentForm is a way to refuse the deletion of a token that isn't there.
// Sources disagree about the Token API, so clients must take all of them.
type DeleteAbsentForm int

const (
	// DeleteAbsentResourceDoesNotExist is 404 RESOURCE_DOES_NOT_EXIST, the form
	// in the doc comments of the Databricks SDK, and the default.
	DeleteAbsentResourceDoesNotExist DeleteAbsentForm = iota
	// DeleteAbsentNotFound is 404 NOT_FOUND, the form in the fixtures of the
	// Databricks Terraform provider.
	DeleteAbsentNotFound
	// DeleteAbsentBadRequest is a 400 whose message contains "does not exist",
	// the other form in those fixtures.
	DeleteAbsentBadRequest
)

// WithDeleteAbsent chooses how POST /api/2.0/token/delete refuses an unknown id.
func WithDeleteAbsent(form DeleteAbsentForm) Option {
	return func(s *settings) { s.deleteAbsent = form }
}

// WithoutCallLog keeps no record of calls, only their counts, so that memory
// stays flat under load. [Workspace.Calls] is then always empty.
func WithoutCallLog() Option { return func(s *settings) { s.noCallLog = true } }

// WithObserver calls f for every request, once its outcome is decided and
// before the answer leaves. f may be called concurrently.
func WithObserver(f func(Call)) Option { return func(s *settings) { s.observer = f } }

// PagePath is where a page for people is, see [WithPage].
const PagePath = "/simulator/"

// WithPage serves a page for people below [PagePath], and sends a browser there
// that asks for the root. No real workspace has it: these requests are neither
// logged nor counted, and meet no fault.
func WithPage(page func(*Workspace) http.Handler) Option {
	return func(s *settings) { s.page = page }
}

// New starts a workspace on a free loopback port, in the manner of
// httptest.NewServer. It panics where [Start] returns an error.
func New(opts ...Option) *Workspace {
	w, err := Start(opts...)
	if err != nil {
		panic("simulator: " + err.Error())
	}
	return w
}

// Start starts a workspace. It fails when the address is not loopback or can't
// be listened on, when the workspace id is not a positive number, when there is no
// such cloud, and when an address of the IP access list is none.
func Start(opts ...Option) (*Workspace, error) {
	s := settings{
		addr:             "127.0.0.1:0",
		now:              time.Now,
		workspaceID:      defaultWorkspaceID,
		tokenQuota:       defaultTokenQuota,
		maxTokenLifetime: defaultMaxTokenLifetime,
		scopeLimit:       defaultScopeLimit,
		secretLimit:      defaultSecretLimit,
		ucSecretLimit:    defaultUCSecretLimit,
		ucPage:           maxUCPage,
		cloud:            "aws",
		principalLimit:   defaultPrincipalLimit,
		quotaStatus:      http.StatusBadRequest,
		quotaCode:        "RESOURCE_LIMIT_EXCEEDED",

		accessTokenLifetime: defaultAccessTokenLifetime,
	}
	for _, opt := range opts {
		opt(&s)
	}
	if n, err := strconv.ParseInt(s.workspaceID, 10, 64); err != nil || n <= 0 {
		return nil, fmt.Errorf("workspace id %q is not a positive number", s.workspaceID)
	}
	if clouds[s.cloud] == "" {
		return nil, fmt.Errorf("cloud %q is not one of aws, azure and gcp", s.cloud)
	}
	if err := checkLoopback(s.addr); err != nil {
		return nil, err
	}
	addresses, err := parseAddresses(s.allowedAddresses)
	if err != nil {
		return nil, err
	}
	w := &Workspace{
		settings:     s,
		served:       make(chan struct{}),
		faults:       faultList{seed: s.seed},
		calls:        callLog{keep: !s.noCallLog, counts: map[endpoint]int{}},
		principals:   map[string]*principal{},
		byName:       map[string]*principal{},
		groups:       map[string]*group{},
		groupsByName: map[groupName]*group{},
		tokens:       map[string]*token{},
		access:       map[string]*accessToken{},
		databases:    map[string]string{},
		logins:       map[string]*databaseLogin{},
		secrets:      map[string]*oauthSecret{},
		entraApps:    map[entraID]*entraApp{},
		scopes:       map[string]*secretScope{},
		ucSchemas:    map[string]*ucSchema{},
		ucMetastore:  defaultUCMetastore,

		allowedAddresses: addresses, authDown: s.authDown,
	}
	w.users = w.addGroup(usersName, false)
	w.admins = w.addGroup(adminsName, false)
	listener, err := net.Listen("tcp", s.addr)
	if err != nil {
		return nil, err
	}
	w.serve(listener)
	return w, nil
}

func checkLoopback(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("address %q is not host:port", addr)
	}
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("address %q is not loopback: a simulated workspace hands out tokens to anyone, so it listens on 127.0.0.1, [::1] or localhost only", addr)
}

// URL is the origin of the workspace, without a trailing slash.
func (w *Workspace) URL() string { return w.url }

// CACert is the PEM of the certificate that signs the server's, empty without
// [WithTLS].
func (w *Workspace) CACert() string { return w.caCert }

// ID is the workspace id, which answers carry as X-Databricks-Org-Id.
func (w *Workspace) ID() string { return w.settings.workspaceID }

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, it ends the process instead
	return b
}

func randomHex(n int) string { return hex.EncodeToString(randomBytes(n)) }

func newUUID() string {
	b := randomBytes(16)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// hashOf is how credentials are kept, and the documented form of a token id
// (Databricks SDK, UpdateTokenRequest: "the SHA-256 hash of the token").
func hashOf(credential string) string {
	sum := sha256.Sum256([]byte(credential))
	return hex.EncodeToString(sum[:])
}
