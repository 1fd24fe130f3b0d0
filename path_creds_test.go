// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/credential"
	"vault-plugin-secrets-databricks/internal/marker"
	"vault-plugin-secrets-databricks/internal/simulator"
)

const (
	createPath = "/api/2.0/token/create"
	deletePath = "/api/2.0/token/delete"
	listPath   = "/api/2.0/token/list"
)

func TestMint(t *testing.T) {
	t.Parallel()
	m := ready(t)
	creds := m.mint("etl")

	calls := m.workspace.Calls()
	require.Len(t, calls, 1, "a mint is one call")
	require.Equal(t, createPath, calls[0].Path)
	var sent struct {
		Lifetime int64    `json:"lifetime_seconds"`
		Comment  string   `json:"comment"`
		Scopes   []string `json:"scopes"`
	}
	require.NoError(t, json.Unmarshal(calls[0].Body, &sent))
	require.EqualValues(t, 3660, sent.Lifetime, "max_ttl and a minute")
	require.Empty(t, sent.Scopes)
	require.Regexp(t, `^Vault role etl for alice vault:`+testMountID+`:[0-9a-f]{32}:\d+$`, sent.Comment)

	token := m.minted()[0]
	require.Equal(t, m.admin.ID, token.Owner)
	require.Equal(t, m.workspace.URL(), creds.Data["host"])
	require.Equal(t, token.ID, creds.Data["token_id"])
	require.Equal(t, sent.Comment, creds.Data["comment"])
	require.Equal(t, rfc3339(token.Created), creds.Data["creation_time"])
	require.Equal(t, rfc3339(token.Expires), creds.Data["expiry_time"])
	require.Equal(t, http.StatusOK, m.whoami(creds.Data["token_value"].(string)))
	require.Equal(t, 10*time.Minute, creds.Secret.TTL)
	require.Equal(t, time.Hour, creds.Secret.MaxTTL)
	require.True(t, creds.Secret.Renewable)
	require.Empty(t, creds.Warnings)
	require.Empty(t, m.walEntries())

	internal, err := json.Marshal(creds.Secret.InternalData)
	require.NoError(t, err)
	require.NotContains(t, string(internal), creds.Data["token_value"], "the lease's own data has no secret")

	m.workspace.ResetCalls()
	resp, err := m.revoke(creds.Secret)
	m.requireOK(resp, err)
	require.Len(t, m.workspace.Calls(), 1, "a revoke is one call")
	require.Equal(t, deletePath, m.workspace.Calls()[0].Path)
	require.Equal(t, http.StatusForbidden, m.whoami(creds.Data["token_value"].(string)))
	require.Empty(t, m.minted())
}

// TestMintReadsNoStorage shows that what is needed for a mint is in memory: only the write-ahead log is touched.
func TestMintReadsNoStorage(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.mint("etl")
	var mu sync.Mutex
	var touched []string
	m.storage.onEach(func(op, key string) error {
		mu.Lock()
		defer mu.Unlock()
		prefix, _, _ := strings.Cut(key, "/")
		touched = append(touched, op+" "+prefix)
		return nil
	})
	m.mint("etl")
	require.Equal(t, []string{"put wal", "delete wal"}, touched)
}

func TestMintNarrowed(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.write("roles/bi", map[string]any{"credential_type": "pat", "scopes": "sql,clusters", "ttl": "10m", "max_ttl": "1h", "comment": "{{.MountPath}} {{.DisplayName}} {{.RequestID}}"})

	creds := m.write("creds/bi", map[string]any{"ttl": "5m", "scopes": "sql", "comment": "OPS-1234"})
	require.Equal(t, 5*time.Minute, creds.Secret.TTL)
	require.Equal(t, []string{"sql"}, creds.Data["scopes"])
	require.Equal(t, []string{"sql"}, m.minted()[0].Scopes)
	require.Regexp(t, `^databricks/ token-ci 11111111-2222-3333-4444-555555555555: OPS-1234 vault:`, creds.Data["comment"])

	require.Equal(t, []string{"sql", "clusters"}, m.mint("bi").Data["scopes"], "who asks for none gets the role's")
	require.Equal(t, []string{"jobs"}, m.write("creds/etl", map[string]any{"scopes": "jobs"}).Data["scopes"], "a role without scopes allows any")

	capped := m.write("creds/bi", map[string]any{"ttl": "2h"})
	require.Equal(t, time.Hour, capped.Secret.TTL)
	require.Contains(t, strings.Join(capped.Warnings, "\n"), "2h")

	m.workspace.ResetCalls()
	for name, row := range map[string]struct {
		path  string
		data  map[string]any
		words []string
	}{
		"unknown role":      {"creds/nobody", nil, []string{`role: there is no role "nobody"`}},
		"another scope":     {"creds/bi", map[string]any{"scopes": "sql,all-apis"}, []string{`scopes: "all-apis" is not among the role's`, "sql, clusters"}},
		"no scope at all":   {"creds/bi", map[string]any{"scopes": []string{" "}}, []string{"scopes: "}},
		"a long comment":    {"creds/bi", map[string]any{"comment": strings.Repeat("x", maxCallerComment+1)}, []string{"comment: is 101 bytes long"}},
		"a ttl in words":    {"creds/bi", map[string]any{"ttl": "long"}, []string{"ttl: "}},
		"a negative ttl":    {"creds/bi", map[string]any{"ttl": -1}, []string{"ttl: "}},
		"scopes of the API": {"creds/etl", map[string]any{"scopes": "sql/../all"}, []string{"scopes: "}},
	} {
		resp, err := m.do(logical.UpdateOperation, row.path, row.data)
		m.refused(resp, err, row.words...)
		require.Empty(t, m.workspace.Calls(), name)
		require.Empty(t, m.walEntries(), name)
	}
}

func TestMintDefaults(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.write("roles/plain", map[string]any{"credential_type": "pat"})
	creds := m.mint("plain")
	require.Equal(t, testDefaultTTL, creds.Secret.TTL, "the mount's")
	require.Equal(t, testMaxTTL, creds.Secret.MaxTTL)

	m.write("config", map[string]any{"ttl": "2m", "max_ttl": "3m"})
	creds = m.mint("plain")
	require.Equal(t, 2*time.Minute, creds.Secret.TTL, "the config's")
	require.Equal(t, 3*time.Minute, creds.Secret.MaxTTL)

	m.system.EntityVal = nil
	m.restart()
	require.Contains(t, m.mint("plain").Data["comment"], "Vault role plain for token-ci vault:", "no entity has been found")
}

// TestMintFaults goes through what can happen to the create, and what must be left: at once, and after a rollback.
func TestMintFaults(t *testing.T) {
	t.Parallel()
	const lost = http.StatusBadGateway
	for name, row := range map[string]struct {
		fault  simulator.Fault
		status int // of the answer; 400 for a refusal, 0 for success
		word   string
		walled bool // an entry stays for the rollback
		orphan bool // a token exists that nobody got
		calls  int  // creates
	}{
		"refused":                  {simulator.Fault{Status: 400, ErrorCode: "INVALID_PARAMETER_VALUE", Message: "lifetime"}, 400, "INVALID_PARAMETER_VALUE", false, false, 1},
		"forbidden":                {simulator.Fault{Status: 403, ErrorCode: "PERMISSION_DENIED", Message: "no tokens for you"}, 400, "no tokens for you", false, false, 1},
		"own token dead":           {simulator.Fault{Status: 403, Body: `{"error_code":403,"message":"Invalid access token."}`}, 400, "Invalid access token", false, false, 1},
		"absent":                   {simulator.Fault{Status: 404, ErrorCode: "FEATURE_DISABLED", Message: "off"}, 400, "FEATURE_DISABLED", false, false, 1},
		"throttled once":           {simulator.Fault{Status: 429, ErrorCode: "REQUEST_LIMIT_EXCEEDED", Times: 1}, 0, "", true, false, 2},
		"unavailable once":         {simulator.Fault{Status: 503, ErrorCode: "TEMPORARILY_UNAVAILABLE", Times: 1}, 0, "", true, false, 2},
		"throttled with a twin":    {simulator.Fault{Status: 429, ErrorCode: "REQUEST_LIMIT_EXCEEDED", Times: 1, AfterEffect: true}, 0, "", true, true, 2},
		"throttled for long":       {simulator.Fault{Status: 429, ErrorCode: "REQUEST_LIMIT_EXCEEDED", Header: http.Header{"Retry-After": {"3600"}}}, 429, "REQUEST_LIMIT_EXCEEDED", true, false, 1},
		"broken":                   {simulator.Fault{Status: 500, ErrorCode: "INTERNAL_ERROR"}, lost, "INTERNAL_ERROR", true, false, 1},
		"broken after the effect":  {simulator.Fault{Status: 500, ErrorCode: "INTERNAL_ERROR", AfterEffect: true}, lost, "INTERNAL_ERROR", true, true, 1},
		"gateway time-out":         {simulator.Fault{Status: 504, ErrorCode: "DEADLINE_EXCEEDED", AfterEffect: true}, lost, "", true, true, 1},
		"reset":                    {simulator.Fault{Reset: true}, lost, "", true, false, 1},
		"reply lost, reset":        {simulator.Fault{Reset: true, AfterEffect: true}, lost, "", true, true, 1},
		"reply lost, closed":       {simulator.Fault{Close: true, AfterEffect: true}, lost, "", true, true, 1},
		"login page":               {simulator.Fault{HTML: true}, lost, "", true, false, 1},
		"reply cut in the middle":  {simulator.Fault{Truncate: true, AfterEffect: true}, lost, "", true, true, 1},
		"reply without a token":    {simulator.Fault{Status: 200, Body: "{}", AfterEffect: true}, lost, "", true, true, 1},
		"reply of the wrong types": {simulator.Fault{Status: 200, Body: `{"token_value":["x"],"token_info":7}`, AfterEffect: true}, lost, "", true, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := ready(t)
			row.fault.Path = createPath
			fault := m.workspace.Inject(row.fault)
			resp, err := m.do(logical.ReadOperation, "creds/etl", nil)
			got := ""
			switch row.status {
			case 0:
				m.requireOK(resp, err)
				got = resp.Data["token_id"].(string)
			case 400:
				m.refused(resp, err, row.word, "token/create")
			case lost:
				require.Error(t, err)
				var coded logical.HTTPCodedError
				require.ErrorAs(t, err, &coded)
				require.Contains(t, []int{502, 504}, coded.Code())
				require.Contains(t, err.Error(), row.word)
			default:
				m.coded(row.status, resp, err, row.word)
			}
			require.Equal(t, row.calls, m.workspace.Count("", createPath), "creates")
			require.Len(t, m.walEntries(), map[bool]int{true: 1}[row.walled])
			orphans := 0
			for _, token := range m.minted() {
				if token.ID != got {
					orphans++
				}
			}
			require.Equal(t, map[bool]int{true: 1}[row.orphan], orphans)

			fault.Clear()
			m.forgetThrottling()
			resp, err = m.rollback()
			m.requireOK(resp, err)
			require.Empty(t, m.walEntries())
			left := m.minted()
			if got == "" {
				require.Empty(t, left)
			} else {
				require.Len(t, left, 1)
				require.Equal(t, got, left[0].ID, "the lease's own token stays")
			}
			if row.orphan {
				require.Contains(t, m.log.String(), "removed a credential whose creation was not completed")
			}
		})
	}
}

func TestMintTimeout(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.write("config", map[string]any{"request_timeout": 1})
	m.workspace.Inject(simulator.Fault{Path: createPath, AfterEffect: true, Hold: make(chan struct{}), Times: 1})
	resp, err := m.do(logical.ReadOperation, "creds/etl", nil)
	m.coded(http.StatusGatewayTimeout, resp, err)
	require.Len(t, m.minted(), 1)
	resp, err = m.rollback()
	m.requireOK(resp, err)
	require.Empty(t, m.minted())
}

// TestMintStorageFaults lets each step on storage fail.
func TestMintStorageFaults(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		fault   *simulator.Fault
		failing string
		nth     int
		creates int
		left    int // entries of the write-ahead log
		message string
	}{
		"intent not written":        {nil, "put", 1, 0, 0, "write-ahead log"},
		"intent not settled":        {nil, "delete", 1, 1, 0, "try again"},
		"intent not kept":           {&simulator.Fault{Path: createPath, Status: 429, Times: 1, AfterEffect: true}, "put", 2, 2, 1, "try again"},
		"refused, and not settled":  {&simulator.Fault{Path: createPath, Status: 400, ErrorCode: "BAD_REQUEST"}, "delete", 1, 1, 1, "BAD_REQUEST"},
		"for ever, and not settled": {&simulator.Fault{Path: createPath, Status: 200, Body: `{"token_value":"dapi","token_info":{"token_id":"x","expiry_time":-1}}`}, "delete", 1, 1, 1, "never ends"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := ready(t)
			if row.fault != nil {
				m.workspace.Inject(*row.fault)
			}
			seen := 0
			m.storage.onEach(func(op, key string) error {
				if op == row.failing && strings.HasPrefix(key, "wal/") {
					if seen++; seen == row.nth {
						return errors.New("disk full")
					}
				}
				return nil
			})
			resp, err := m.do(logical.ReadOperation, "creds/etl", nil)
			if err == nil {
				err = resp.Error()
			}
			require.ErrorContains(t, err, row.message)
			require.Equal(t, row.creates, m.workspace.Count("", createPath))
			require.Len(t, m.walEntries(), row.left)
			m.storage.onEach(nil)
			m.workspace.ClearFaults()
			resp, err = m.rollback()
			m.requireOK(resp, err)
			require.Empty(t, m.walEntries())
			require.Empty(t, m.minted(), "nothing is left of a request that failed")
		})
	}
}

// TestMintUncertainStorage lets storage do as it is told and fail all the same, and Databricks refuse to undo at once.
func TestMintUncertainStorage(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		twin    bool
		undone  bool // at once
		failing string
	}{
		"settled, undone at once": {false, true, "delete"},
		"settled, undone later":   {false, false, "delete"},
		"kept, undone at once":    {true, true, "put"},
		"kept, undone later":      {true, false, "put"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := ready(t)
			m.write("config", map[string]any{"max_retries": 1})
			if row.twin {
				m.workspace.Inject(simulator.Fault{Path: createPath, Status: 429, Times: 1})
			}
			if !row.undone {
				m.workspace.Inject(simulator.Fault{Path: deletePath, Status: 503})
			}
			puts, failed := 0, false
			m.storage.afterEach(func(op, key string) error {
				if op == "put" && strings.HasPrefix(key, "wal/") {
					puts++
				}
				if op == row.failing && (op == "delete" || puts == 2) && !failed {
					failed = true
					return errors.New("leadership lost while committing log")
				}
				return nil
			})
			_, err := m.do(logical.ReadOperation, "creds/etl", nil)
			require.ErrorContains(t, err, "leadership lost")
			require.Equal(t, row.undone, len(m.minted()) == 0)
			m.workspace.ClearFaults()
			resp, err := m.rollback()
			m.requireOK(resp, err)
			require.Empty(t, m.minted())
			require.Empty(t, m.walEntries())
		})
	}

	t.Run("and the intent can't be put back", func(t *testing.T) {
		t.Parallel()
		m := ready(t)
		m.write("config", map[string]any{"max_retries": 0})
		m.workspace.Inject(simulator.Fault{Path: deletePath, Status: 503})
		settled := false
		m.storage.onEach(func(op, key string) error {
			settled = settled || op == "delete"
			if settled {
				return errors.New("no quorum")
			}
			return nil
		})
		_, err := m.do(logical.ReadOperation, "creds/etl", nil)
		require.ErrorContains(t, err, "no quorum")
		mark, _ := marker.Parse(m.minted()[0].Comment)
		require.Contains(t, m.log.String(), mark.Nonce, "at least the log says what to clean")
	})
}

// TestMintBetweenCreatingAndAnswering lets the caller go, or the engine break, in the last moments.
func TestMintBetweenCreatingAndAnswering(t *testing.T) {
	t.Parallel()
	for name, undone := range map[string]bool{"undone at once": true, "undone later": false} {
		for when, moment := range lastMoments {
			for _, what := range []string{"cancel", "panic"} {
				t.Run(what+" "+when+", "+name, func(t *testing.T) {
					t.Parallel()
					m := ready(t)
					m.write("config", map[string]any{"max_retries": 0})
					if !undone {
						m.workspace.Inject(simulator.Fault{Path: deletePath, Status: 503})
					}
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					moment(m, func() bool { return len(m.minted()) > 0 }, func() {
						if what == "panic" {
							panic("in the last moment")
						}
						cancel()
					})
					_, err := m.send(ctx, logical.ReadOperation, "creds/etl", nil)
					require.Error(t, err)
					require.Equal(t, what == "panic", strings.Contains(m.log.String(), "recovered from a panic"))
					require.Equal(t, undone, len(m.minted()) == 0)
					require.Equal(t, !undone, len(m.walEntries()) == 1)
					m.workspace.ClearFaults()
					resp, err := m.rollback()
					m.requireOK(resp, err)
					require.Empty(t, m.minted())
					require.Empty(t, m.walEntries())
					require.Empty(t, m.told("creds-create"), "nobody got the credential")
				})
			}
		}
	}
}

// TestRollbackLeavesWhatIsUnderWay shows that no clock and no disabling of the mount makes a rollback undo a mint that is
// still going on.
func TestRollbackLeavesWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.storage.onEach(func(op, key string) error {
		if op == "delete" && strings.HasPrefix(key, "wal/") {
			m.storage.onEach(nil)
			resp, err := m.rollback()
			if err != nil || !resp.IsError() {
				t.Errorf("%v %v", resp, err)
			}
		}
		return nil
	})
	creds := m.mint("etl")
	require.Equal(t, http.StatusOK, m.whoami(creds.Data["token_value"].(string)))
	require.Empty(t, m.walEntries())
}

// TestMintCancelled lets the caller go away at each moment of a mint.
func TestMintCancelled(t *testing.T) {
	t.Parallel()

	t.Run("before anything", func(t *testing.T) {
		t.Parallel()
		m := ready(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := m.send(ctx, logical.ReadOperation, "creds/etl", nil)
		require.ErrorIs(t, err, context.Canceled)
		require.Empty(t, m.workspace.Calls())
		require.Empty(t, m.walEntries())
	})

	for name, broken := range map[string]bool{"during the create": false, "during the create, and Databricks breaks": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := ready(t)
			hold := make(chan struct{})
			fault := m.workspace.Inject(simulator.Fault{Path: createPath, Hold: hold, Times: 1})
			ctx, cancel := context.WithCancel(t.Context())
			failed := make(chan error)
			go func() {
				_, err := m.send(ctx, logical.ReadOperation, "creds/etl", nil)
				failed <- err
			}()
			require.Eventually(t, func() bool { return fault.Hits() == 1 }, 10*time.Second, time.Millisecond)
			cancel()
			if broken {
				m.workspace.Inject(simulator.Fault{Path: deletePath, Status: 400, ErrorCode: "BAD_REQUEST"})
			}
			close(hold)
			require.ErrorIs(t, <-failed, context.Canceled)
			if broken {
				require.Len(t, m.minted(), 1)
				require.Len(t, m.walEntries(), 1, "the rollback will see to it")
				m.workspace.ClearFaults()
				resp, err := m.rollback()
				m.requireOK(resp, err)
			}
			require.Empty(t, m.minted())
			require.Empty(t, m.walEntries())
		})
	}

	t.Run("while the intent is settled", func(t *testing.T) {
		t.Parallel()
		m := ready(t)
		ctx, cancel := context.WithCancel(t.Context())
		m.storage.onEach(func(op, key string) error {
			if op == "delete" {
				cancel()
			}
			return nil
		})
		_, err := m.send(ctx, logical.ReadOperation, "creds/etl", nil)
		require.ErrorIs(t, err, context.Canceled)
		require.Empty(t, m.minted())
		require.Empty(t, m.walEntries())
	})
}

func TestMintAtOnce(t *testing.T) {
	t.Parallel()
	m := ready(t)
	const n = 200
	var wg sync.WaitGroup
	ids := make([]string, n)
	for i := range n {
		wg.Go(func() {
			resp, err := m.do(logical.ReadOperation, "creds/etl", nil)
			if err != nil || resp.IsError() {
				t.Errorf("%v %v", resp, err)
				return
			}
			ids[i] = resp.Data["token_id"].(string)
		})
		if i%50 == 0 {
			wg.Go(func() { m.backend.InvalidateKey(t.Context(), configStorageKey) })
		}
	}
	wg.Wait()
	require.Len(t, m.minted(), n)
	require.Equal(t, n, m.workspace.Count("", createPath))
	unique := map[string]bool{}
	for _, id := range ids {
		unique[id] = true
	}
	require.Len(t, unique, n)
	require.Empty(t, m.walEntries())
}

func TestMintOverOAuth(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	sp := m.workspace.AddServicePrincipal("engine", false)
	_, secret := m.workspace.AddOAuthSecret(sp, time.Hour)
	m.write("config", map[string]any{"host": m.workspace.URL(), "client_id": sp.ApplicationID, "client_secret": secret, "verify_connection": false})
	m.write("roles/etl", map[string]any{"credential_type": "pat"})
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if resp, err := m.do(logical.ReadOperation, "creds/etl", nil); err != nil || resp.IsError() {
				t.Errorf("%v %v", resp, err)
			}
		})
	}
	wg.Wait()
	require.Equal(t, 1, m.workspace.Count("", "/oidc/v1/token"), "one token fetch however many wait")
	require.Equal(t, 1, m.workspace.Count("", mePath), "and one look at who the engine is")
	require.Equal(t, 100, m.workspace.Count("", createPath))

	m.workspace.RevokeAccessTokens()
	m.mint("etl")
	require.Equal(t, 2, m.workspace.Count("", "/oidc/v1/token"), "a dead access token is replaced within the request")
	require.NotContains(t, m.log.String(), secret)
}

func TestMintAtQuota(t *testing.T) {
	t.Parallel()
	m := ready(t, simulator.WithTokenQuota(3))
	m.mint("etl")
	m.mint("etl")
	resp, err := m.do(logical.ReadOperation, "creds/etl", nil)
	m.refused(resp, err, "QUOTA_EXCEEDED", "600 live tokens", "it has 3, of which this mount made 2", "vault lease revoke -prefix", "HTTP 400")
	require.Empty(t, m.walEntries())

	m.workspace.Inject(simulator.Fault{Path: listPath, Status: 400, ErrorCode: "BAD_REQUEST"})
	resp, err = m.do(logical.ReadOperation, "creds/etl", nil)
	m.refused(resp, err, "QUOTA_EXCEEDED", "could not be counted")
}

func TestMintGrantedLess(t *testing.T) {
	t.Parallel()
	m := ready(t)
	body := func(lifetime time.Duration) string {
		now := time.Now().UnixMilli()
		return fmt.Sprintf(`{"token_value":"dapi0","token_info":{"token_id":"granted","creation_time":%d,"expiry_time":%d}}`, now, now+lifetime.Milliseconds())
	}
	fault := m.workspace.Inject(simulator.Fault{Path: createPath, Status: 200, Body: body(5 * time.Minute)})
	creds := m.mint("etl")
	require.InDelta(t, 5*time.Minute, creds.Secret.TTL, float64(5*time.Second))
	require.LessOrEqual(t, creds.Secret.TTL, 5*time.Minute)
	require.Equal(t, creds.Secret.TTL, creds.Secret.MaxTTL)
	require.Contains(t, strings.Join(creds.Warnings, "\n"), "Databricks gave the credential a life of 5m although 1h1m were asked for, so the lease can last no longer than 4m59s instead of max_ttl, 1h.")
	fault.Clear()

	// A lease may not outlive its credential, nor a credential its lease: one that never ends is refused.
	m.workspace.Inject(simulator.Fault{Path: createPath, Status: 200, Body: `{"token_value":"dapi0","token_info":{"token_id":"for-ever","expiry_time":-1}}`})
	resp, err := m.do(logical.ReadOperation, "creds/etl", nil)
	m.coded(http.StatusBadGateway, resp, err, "never ends", "removed")
	require.Equal(t, 1, m.workspace.Count("", deletePath))
	require.Empty(t, m.walEntries())
}

func TestRenew(t *testing.T) {
	t.Parallel()
	m := ready(t)
	creds := m.mint("etl")
	m.workspace.ResetCalls()
	renew := func(change func(*logical.Secret)) (*logical.Response, error) {
		secret := *creds.Secret
		secret.IssueTime = time.Now()
		internal := map[string]any{}
		for k, v := range creds.Secret.InternalData {
			internal[k] = v
		}
		secret.InternalData = internal
		if change != nil {
			change(&secret)
		}
		return m.leaseRequest(logical.RenewOperation, &secret)
	}

	resp, err := renew(nil)
	m.requireOK(resp, err)
	require.Equal(t, 10*time.Minute, resp.Secret.TTL)
	require.Equal(t, time.Hour, resp.Secret.MaxTTL)
	require.Empty(t, resp.Warnings)

	resp, err = renew(func(s *logical.Secret) { s.Increment = 20 * time.Minute })
	m.requireOK(resp, err)
	require.Equal(t, 20*time.Minute, resp.Secret.TTL)

	resp, err = renew(func(s *logical.Secret) { s.IssueTime = time.Now().Add(-55 * time.Minute) })
	m.requireOK(resp, err)
	require.InDelta(t, 5*time.Minute, resp.Secret.TTL, float64(2*time.Second))

	resp, err = renew(func(s *logical.Secret) { s.IssueTime = time.Now().Add(-2 * time.Hour) })
	m.refused(resp, err, "past the max TTL", "creds/etl")

	// Whatever the role says by now, no promise goes past what Databricks granted.
	m.write("roles/etl", map[string]any{"ttl": "4h", "max_ttl": "4h"})
	resp, err = renew(func(s *logical.Secret) { s.Increment = 3 * time.Hour })
	m.requireOK(resp, err)
	require.InDelta(t, 61*time.Minute, resp.Secret.TTL, float64(5*time.Second))
	require.InDelta(t, 61*time.Minute, resp.Secret.MaxTTL, float64(5*time.Second), "Vault calculates from this once more")
	require.Contains(t, strings.Join(resp.Warnings, "\n"), "can't be extended there")
	resp, err = renew(func(s *logical.Secret) {
		s.InternalData["expires"] = time.Now().Add(-time.Second).Format(time.RFC3339Nano)
	})
	m.refused(resp, err, "ended at Databricks", "creds/etl")

	// A role that was made stricter counts.
	m.write("roles/etl", map[string]any{"ttl": "1m", "max_ttl": "2m"})
	resp, err = renew(nil)
	m.requireOK(resp, err)
	require.Equal(t, time.Minute, resp.Secret.TTL)

	for name, break_ := range map[string]func(map[string]any){
		"no id":            func(d map[string]any) { delete(d, "id") },
		"a broken expires": func(d map[string]any) { d["expires"] = "soon" },
	} {
		for _, op := range []logical.Operation{logical.RenewOperation, logical.RevokeOperation} {
			secret := *creds.Secret
			internal := map[string]any{}
			for k, v := range creds.Secret.InternalData {
				internal[k] = v
			}
			break_(internal)
			secret.InternalData = internal
			_, err = m.leaseRequest(op, &secret)
			require.ErrorContains(t, err, "internal data", name)
		}
	}

	m.storage.onEach(func(op, key string) error { return errors.New("no quorum") })
	m.backend.InvalidateKey(t.Context(), "role/etl")
	_, err = renew(nil)
	require.ErrorContains(t, err, "no quorum")
	m.storage.onEach(nil)

	resp, err = m.do(logical.DeleteOperation, "roles/etl", nil)
	m.requireOK(resp, err)
	resp, err = renew(nil)
	m.refused(resp, err, `role: "etl" was deleted`)
	require.Empty(t, m.workspace.Calls(), "renewing is local")

	m.write("roles/etl", map[string]any{"credential_type": "pat"})
	resp, err = m.do(logical.DeleteOperation, "config", nil)
	m.requireOK(resp, err)
	resp, err = renew(nil)
	m.refused(resp, err, "config")
}

func TestRevoke(t *testing.T) {
	t.Parallel()

	for name, form := range map[string]simulator.Fault{
		"really gone":                   {},
		"RESOURCE_DOES_NOT_EXIST":       {Status: 404, ErrorCode: "RESOURCE_DOES_NOT_EXIST", Message: "Token with id x does not exist"},
		"NOT_FOUND":                     {Status: 404, ErrorCode: "NOT_FOUND", Message: "no"},
		"a 400 that says so in words":   {Status: 400, ErrorCode: "INVALID_PARAMETER_VALUE", Message: "Token x does not exist!"},
		"a reply lost after the effect": {Reset: true, AfterEffect: true, Times: 1},
	} {
		t.Run("gone is success: "+name, func(t *testing.T) {
			t.Parallel()
			m := ready(t)
			creds := m.mint("etl")
			switch {
			case form.AfterEffect, form.Status != 0:
				form.Path = deletePath
				m.workspace.Inject(form)
			default:
				require.True(t, m.workspace.RevokeToken(creds.Data["token_id"].(string)))
			}
			resp, err := m.revoke(creds.Secret)
			m.requireOK(resp, err)
		})
	}

	for name, row := range map[string]struct {
		fault  simulator.Fault
		status int
		word   string
	}{
		"throttled":   {simulator.Fault{Status: 429, ErrorCode: "REQUEST_LIMIT_EXCEEDED", Header: http.Header{"Retry-After": {"3600"}}}, 429, "REQUEST_LIMIT_EXCEEDED"},
		"broken":      {simulator.Fault{Status: 500, ErrorCode: "INTERNAL_ERROR"}, 502, "INTERNAL_ERROR"},
		"unreachable": {simulator.Fault{Reset: true}, 502, ""},
		"forbidden":   {simulator.Fault{Status: 403, ErrorCode: "PERMISSION_DENIED"}, 400, "PERMISSION_DENIED"},

		"a gateway's 404":           {simulator.Fault{Status: 404, Body: `{"message":"no Route matched with those values"}`}, 400, "check that host"},
		"a 404 that says nothing":   {simulator.Fault{Status: 404, Body: `{}`}, 400, "check that host"},
		"a workspace that is gone":  {simulator.Fault{Status: 404, ErrorCode: "WORKSPACE_NOT_FOUND"}, 400, "WORKSPACE_NOT_FOUND"},
		"something else that isn't": {simulator.Fault{Status: 400, ErrorCode: "INVALID_PARAMETER_VALUE", Message: "Organization 1 does not exist"}, 400, "Organization"},
	} {
		t.Run("no false success: "+name, func(t *testing.T) {
			t.Parallel()
			m := ready(t)
			m.write("config", map[string]any{"max_retries": 1})
			creds := m.mint("etl")
			row.fault.Path = deletePath
			m.workspace.Inject(row.fault)
			resp, err := m.revoke(creds.Secret)
			if row.status == 400 {
				m.refused(resp, err, row.word, "revoke pat", "etl")
			} else {
				m.coded(row.status, resp, err, row.word, "revoke pat", "etl")
			}
			m.workspace.ClearFaults()
			m.forgetThrottling()
			resp, err = m.revoke(creds.Secret)
			m.requireOK(resp, err)
			require.Empty(t, m.minted())
		})
	}

	t.Run("a fault that passes is ridden out", func(t *testing.T) {
		t.Parallel()
		m := ready(t)
		creds := m.mint("etl")
		m.workspace.Inject(simulator.Fault{Path: deletePath, Status: 503, Times: 1})
		m.workspace.Inject(simulator.Fault{Path: deletePath, Status: 429, Times: 1})
		resp, err := m.revoke(creds.Secret)
		m.requireOK(resp, err)
		require.Empty(t, m.minted())
	})

	t.Run("needs no role, but a connection", func(t *testing.T) {
		t.Parallel()
		m := ready(t)
		creds := m.mint("etl")
		resp, err := m.do(logical.DeleteOperation, "roles/etl", nil)
		m.requireOK(resp, err)
		resp, err = m.do(logical.DeleteOperation, "config", map[string]any{"force": true})
		m.requireOK(resp, err)
		resp, err = m.revoke(creds.Secret)
		m.refused(resp, err, "config", "vault write databricks/config")
		m.connect()
		resp, err = m.revoke(creds.Secret)
		m.requireOK(resp, err)
		require.Empty(t, m.minted())
	})

	t.Run("past its expiry there is nothing to do", func(t *testing.T) {
		t.Parallel()
		m := ready(t)
		secret := m.mint("etl").Secret
		secret.InternalData["dead"] = time.Now().Add(-time.Second).Format(time.RFC3339Nano)
		m.workspace.ResetCalls()
		resp, err := m.do(logical.DeleteOperation, "config", nil)
		m.requireOK(resp, err)
		resp, err = m.revoke(secret)
		m.requireOK(resp, err)
		require.Empty(t, m.workspace.Calls())
	})

	t.Run("a type that this version does not know", func(t *testing.T) {
		t.Parallel()
		m := ready(t)
		secret := m.mint("etl").Secret
		secret.InternalData["credential_type"] = "hologram"
		_, err := m.revoke(secret)
		require.ErrorContains(t, err, `"hologram"`)
	})
}

// TestRevokeOverAnotherConnection shows that a lease is never applied where "gone" would not mean gone.
func TestRevokeOverAnotherConnection(t *testing.T) {
	t.Parallel()

	t.Run("another identity, an admin", func(t *testing.T) {
		t.Parallel()
		m := ready(t)
		creds := m.mint("etl")
		token, _ := m.workspace.AddToken(m.workspace.AddUser("other@example.com", true), "the engine's own", 0)
		require.Contains(t, strings.Join(m.write("config", map[string]any{"token": token}).Warnings, "\n"), "identity changed from engine@example.com to other@example.com")
		resp, err := m.revoke(creds.Secret)
		m.requireOK(resp, err)
		require.Empty(t, m.minted())
	})

	t.Run("another identity, no admin", func(t *testing.T) {
		t.Parallel()
		m := ready(t)
		creds := m.mint("etl")
		token, _ := m.workspace.AddToken(m.workspace.AddUser("other@example.com", false), "the engine's own", 0)
		m.write("config", map[string]any{"token": token})
		resp, err := m.revoke(creds.Secret)
		m.refused(resp, err, "PERMISSION_DENIED")
		require.Len(t, m.minted(), 1)
		m.connect()
		resp, err = m.revoke(creds.Secret)
		m.requireOK(resp, err)
		require.Empty(t, m.minted())
	})

	t.Run("the same identity with a new token", func(t *testing.T) {
		t.Parallel()
		m := ready(t)
		creds := m.mint("etl")
		token, _ := m.workspace.AddToken(m.admin, "the engine's own", 0)
		require.Empty(t, m.write("config", map[string]any{"token": token}).Warnings)
		resp, err := m.revoke(creds.Secret)
		m.requireOK(resp, err)
		require.Empty(t, m.minted())
	})

	t.Run("another workspace", func(t *testing.T) {
		t.Parallel()
		m := ready(t)
		creds := m.mint("etl")
		elsewhere := simulator.New(simulator.WithWorkspaceID("4242"))
		t.Cleanup(elsewhere.Close)
		token, _ := elsewhere.AddToken(elsewhere.AddUser("engine@example.com", true), "", 0)
		m.write("config", map[string]any{"host": elsewhere.URL(), "token": token})
		resp, err := m.revoke(creds.Secret)
		m.refused(resp, err, "host: ", m.workspace.URL(), elsewhere.URL())
		require.Zero(t, elsewhere.Count("", deletePath))
	})

	t.Run("another workspace behind the same host", func(t *testing.T) {
		t.Parallel()
		m := newMount(t)
		m.connect(map[string]any{"workspace_id": m.workspace.ID()})
		m.write("roles/etl", map[string]any{"credential_type": "pat"})
		creds := m.mint("etl")
		conn, err := m.backend.(*backend).connection(t.Context(), m.storage)
		require.NoError(t, err)
		// A host that does not say which workspace answered: then the config has to tell.
		silent := *conn.identity
		silent.WorkspaceID = ""
		routed := &connection{config: &configEntry{Host: m.workspace.URL(), WorkspaceID: "222"}, identity: &silent}
		l, err := leaseOf(creds.Secret)
		require.NoError(t, err)
		access, err := routed.accessTo(t.Context(), l.origin)
		require.NoError(t, err)
		require.Equal(t, credential.AccessNone, access)
	})

	t.Run("the same workspace under another name", func(t *testing.T) {
		t.Parallel()
		m := ready(t)
		secret := m.mint("etl").Secret
		secret.InternalData["host"] = "https://old-name.cloud.databricks.com"
		resp, err := m.revoke(secret)
		m.requireOK(resp, err)
		require.Empty(t, m.minted())
	})

	t.Run("who the engine is can't be told", func(t *testing.T) {
		t.Parallel()
		m := ready(t)
		creds := m.mint("etl")
		m.write("config", map[string]any{"verify_connection": false, "max_retries": 0})
		m.workspace.Inject(simulator.Fault{Path: mePath, Status: 500, ErrorCode: "INTERNAL_ERROR", Times: 1})
		resp, err := m.revoke(creds.Secret)
		m.coded(http.StatusBadGateway, resp, err)
		resp, err = m.revoke(creds.Secret)
		m.requireOK(resp, err)
		require.Empty(t, m.minted())
	})
}

func TestEvents(t *testing.T) {
	t.Parallel()
	m := ready(t)
	creds := m.mint("etl")
	resp, err := m.revoke(creds.Secret)
	m.requireOK(resp, err)
	var kinds []string
	for _, event := range m.sent() {
		kinds = append(kinds, string(event.Type))
		raw, err := json.Marshal(event.Event.GetMetadata().AsMap())
		require.NoError(t, err)
		require.NotContains(t, string(raw), creds.Data["token_value"])
		require.NotContains(t, string(raw), m.token)
	}
	require.Equal(t, []string{"databricks/config-write", "databricks/role-write", "databricks/creds-create", "databricks/creds-revoke"}, kinds)
}

func BenchmarkMint(b *testing.B) {
	w := simulator.New(simulator.WithTokenQuota(1<<30), simulator.WithoutCallLog())
	b.Cleanup(w.Close)
	token, _ := w.AddToken(w.AddUser("engine@example.com", false), "", 0)
	storage := new(logical.InmemStorage)
	backend, err := Factory(b.Context(), &logical.BackendConfig{Logger: newLog().logger, System: logical.TestSystemView(), BackendUUID: testMountID})
	if err != nil {
		b.Fatal(err)
	}
	do := func(op logical.Operation, path string, data map[string]any) {
		resp, err := backend.HandleRequest(context.Background(), &logical.Request{Operation: op, Path: path, Data: data, Storage: storage, DisplayName: "bench"})
		if err != nil || resp.IsError() {
			b.Fatal(resp, err)
		}
	}
	do(logical.CreateOperation, "config", map[string]any{"host": w.URL(), "token": token})
	do(logical.CreateOperation, "roles/etl", map[string]any{"credential_type": "pat"})
	b.Run("one client", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			do(logical.ReadOperation, "creds/etl", nil)
		}
	})
	b.Run("64 clients", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				do(logical.ReadOperation, "creds/etl", nil)
			}
		})
	})
}
