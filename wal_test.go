// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/simulator"
)

// loseReply mints a token whose reply is lost, and answers its id.
func (m *mount) loseReply() string {
	m.t.Helper()
	fault := m.workspace.Inject(simulator.Fault{Path: createPath, AfterEffect: true, Reset: true, Times: 1})
	before := len(m.minted())
	_, err := m.do(logical.ReadOperation, "creds/etl", nil)
	require.Error(m.t, err)
	fault.Clear()
	minted := m.minted()
	require.Len(m.t, minted, before+1)
	require.Len(m.t, m.walEntries(), 1)
	return minted[before].ID
}

func TestIntentHoldsNoSecret(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.loseReply()
	entry, err := m.storage.Get(t.Context(), framework.WALPrefix+m.walEntries()[0])
	require.NoError(t, err)
	require.NotContains(t, string(entry.Value), m.token)
	require.NotContains(t, string(entry.Value), "dapi")
	var kept struct {
		Type string `json:"type"`
		Data intent `json:"data"`
	}
	require.NoError(t, json.Unmarshal(entry.Value, &kept))
	require.Equal(t, walKind, kept.Type)
	require.Equal(t, origin{Host: m.workspace.URL(), WorkspaceID: m.workspace.ID(), OwnerID: m.admin.ID}, kept.Data.origin)
	require.Equal(t, "etl", kept.Data.Credential.Role)
	mark, ok := parseMarker(m.minted()[0].Comment)
	require.True(t, ok)
	require.Equal(t, mark.nonce, kept.Data.Nonce)
	require.Empty(t, kept.Data.Credential.Keep)
}

// TestRollbackLeavesTheYoung shows that Vault's own tick does not undo a create that may be under way.
func TestRollbackLeavesTheYoung(t *testing.T) {
	t.Parallel()
	require.Greater(t, walMinAge, mintBudget)
	m := ready(t)
	m.loseReply()
	resp, err := m.backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage})
	m.requireOK(resp, err)
	require.Len(t, m.walEntries(), 1)
	require.Len(t, m.minted(), 1)

	// Two minutes later it does.
	key := framework.WALPrefix + m.walEntries()[0]
	entry, err := m.storage.Get(t.Context(), key)
	require.NoError(t, err)
	var kept framework.WALEntry
	require.NoError(t, json.Unmarshal(entry.Value, &kept))
	kept.CreatedAt -= int64(walMinAge/time.Second) + 1
	value, err := json.Marshal(kept)
	require.NoError(t, err)
	require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: key, Value: value}))
	resp, err = m.backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage})
	m.requireOK(resp, err)
	require.Empty(t, m.walEntries())
	require.Empty(t, m.minted())
}

func TestRollbackTouchesNothingElse(t *testing.T) {
	t.Parallel()
	m := ready(t)
	lived := m.mint("etl")
	m.loseReply()
	lost := m.minted()[1]
	mark, ok := parseMarker(lost.Comment)
	require.True(t, ok)
	// Comments that only look like the lost token's.
	m.workspace.AddToken(m.admin, lost.Comment+" (copied by an operator)", 0)
	m.workspace.AddToken(m.admin, "nonce "+mark.nonce, 0)
	m.workspace.AddToken(m.admin, strings.Replace(lost.Comment, mark.nonce, strings.Repeat("0", 32), 1), 0)
	resp, err := m.rollback()
	m.requireOK(resp, err)
	left := m.minted()
	require.Len(t, left, 4)
	require.Equal(t, lived.Data["token_id"], left[0].ID)
	for _, token := range left {
		require.NotEqual(t, lost.ID, token.ID)
	}
	require.Contains(t, m.log.String(), lost.ID)
}

func TestRollbackWhileTheMountIsDisabled(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.loseReply()
	m.system.TaintedVal = true
	resp, err := m.backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage})
	m.requireOK(resp, err)
	require.Empty(t, m.minted())
	require.Empty(t, m.walEntries())
}

func TestRollbackListsOnce(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.write("config", map[string]any{"max_retries": 0})
	m.workspace.Inject(simulator.Fault{Path: createPath, AfterEffect: true, Reset: true, Times: 20})
	for range 20 {
		_, err := m.do(logical.ReadOperation, "creds/etl", nil)
		require.Error(t, err)
	}
	outage := m.workspace.Inject(simulator.Fault{Path: listPath, Status: 500, ErrorCode: "INTERNAL_ERROR"})
	resp, err := m.rollback()
	require.NoError(t, err)
	require.True(t, resp.IsError())
	require.Equal(t, 1, outage.Hits(), "a list that fails is not repeated for every entry")
	outage.Clear()
	m.workspace.ResetCalls()
	resp, err = m.rollback()
	m.requireOK(resp, err)
	require.Equal(t, 1, m.workspace.Count("", listPath))
	require.Empty(t, m.minted())
	require.Empty(t, m.walEntries())
}

func TestRollbackFailsAndIsRepeated(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.write("config", map[string]any{"max_retries": 0})
	m.loseReply()
	tryAndFail := func(words ...string) {
		t.Helper()
		resp, err := m.rollback()
		require.NoError(t, err)
		require.True(t, resp.IsError())
		for _, word := range words {
			require.Contains(t, resp.Error().Error(), word)
		}
		require.Len(t, m.walEntries(), 1, "the entry stays")
	}

	m.workspace.Inject(simulator.Fault{Path: listPath, Status: 500, ErrorCode: "INTERNAL_ERROR"})
	tryAndFail("INTERNAL_ERROR")
	tryAndFail("INTERNAL_ERROR")
	require.Equal(t, 1, strings.Count(m.log.String(), "[ERROR]"), "Vault does not log such a failure, so the engine does, once")
	m.workspace.ClearFaults()
	m.workspace.Inject(simulator.Fault{Path: deletePath, Status: 403, ErrorCode: "PERMISSION_DENIED"})
	tryAndFail("PERMISSION_DENIED")
	m.workspace.ClearFaults()
	resp, err := m.do(logical.DeleteOperation, "config", nil)
	m.requireOK(resp, err)
	tryAndFail("no connection yet")
	m.connect(map[string]any{"verify_connection": false, "max_retries": 0})
	m.workspace.Inject(simulator.Fault{Path: mePath, Reset: true, Times: 1})
	tryAndFail("scim/me")
	m.storage.onEach(func(op, key string) error {
		if op == "delete" {
			return errors.New("disk full")
		}
		return nil
	})
	tryAndFail("disk full")
	m.storage.onEach(nil)

	resp, err = m.rollback()
	m.requireOK(resp, err)
	require.Empty(t, m.walEntries())
	require.Empty(t, m.minted())
}

func TestRollbackGoneMeanwhile(t *testing.T) {
	t.Parallel()
	m := ready(t)
	id := m.loseReply()
	m.workspace.Inject(simulator.Fault{Path: deletePath, Status: http.StatusNotFound, ErrorCode: "RESOURCE_DOES_NOT_EXIST"})
	resp, err := m.rollback()
	m.requireOK(resp, err)
	require.Empty(t, m.walEntries())
	require.Equal(t, id, m.minted()[0].ID, "the fault lied, but the engine had to believe it")
}

func TestRollbackOverAnotherIdentity(t *testing.T) {
	t.Parallel()

	t.Run("an admin", func(t *testing.T) {
		t.Parallel()
		m := ready(t)
		m.loseReply()
		token, _ := m.workspace.AddToken(m.workspace.AddUser("other@example.com", true), "the engine's own", 0)
		m.write("config", map[string]any{"token": token})
		resp, err := m.rollback()
		m.requireOK(resp, err)
		require.Empty(t, m.minted())
	})

	for name, elsewhere := range map[string]bool{"no admin": false, "another workspace": true} {
		t.Run(name+": it complains, once and loudly, and goes on trying", func(t *testing.T) {
			t.Parallel()
			m := ready(t)
			m.loseReply()
			mark, _ := parseMarker(m.minted()[0].Comment)
			if elsewhere {
				other := simulator.New(simulator.WithWorkspaceID("4242"))
				t.Cleanup(other.Close)
				token, _ := other.AddToken(other.AddUser("engine@example.com", true), "", 0)
				m.write("config", map[string]any{"host": other.URL(), "token": token})
			} else {
				token, _ := m.workspace.AddToken(m.workspace.AddUser("other@example.com", false), "the engine's own", 0)
				m.write("config", map[string]any{"token": token})
			}
			for range 2 {
				resp, err := m.rollback()
				require.NoError(t, err)
				require.True(t, resp.IsError())
			}
			log := m.log.String()
			require.Equal(t, 1, strings.Count(log, "could not be undone yet"))
			require.Contains(t, log, "nonce="+mark.nonce)
			require.Contains(t, log, "[ERROR]")

			m.write("config", map[string]any{"host": m.workspace.URL(), "token": m.token})
			resp, err := m.rollback()
			m.requireOK(resp, err)
			require.Empty(t, m.walEntries())
			require.Empty(t, m.minted())
		})
	}
}

func TestRollbackOfOtherEntries(t *testing.T) {
	t.Parallel()
	m := ready(t)
	here := origin{Host: m.workspace.URL(), WorkspaceID: m.workspace.ID(), OwnerID: m.admin.ID}

	t.Run("past its expiry", func(t *testing.T) {
		_, err := framework.PutWAL(t.Context(), m.storage, walKind, intent{Credential: &credentialIntent{Type: credentialPAT}, Nonce: "x", Expires: time.Now().Add(-time.Second)})
		require.NoError(t, err)
		m.workspace.ResetCalls()
		resp, err := m.rollback()
		m.requireOK(resp, err)
		require.Empty(t, m.walEntries())
		require.Empty(t, m.workspace.Calls())
	})

	for name, row := range map[string]struct {
		kind string
		data any
		word string
	}{
		"an unknown kind":            {"teleport", map[string]any{}, `"teleport"`},
		"an unknown credential type": {walKind, intent{origin: here, Credential: &credentialIntent{Type: "hologram"}, Expires: time.Now().Add(time.Hour)}, `"hologram"`},
		"a broken entry":             {walKind, map[string]any{"expires": 7}, "can't be read"},
	} {
		t.Run(name, func(t *testing.T) {
			id, err := framework.PutWAL(t.Context(), m.storage, row.kind, row.data)
			require.NoError(t, err)
			resp, err := m.rollback()
			require.NoError(t, err)
			require.ErrorContains(t, resp.Error(), row.word)
			require.Equal(t, []string{id}, m.walEntries(), "what is not understood is not thrown away")
			require.NoError(t, framework.DeleteWAL(t.Context(), m.storage, id))
		})
	}
}

func TestErrorsByKind(t *testing.T) {
	t.Parallel()
	plain := errors.New("plain")
	resp, err := answer(nil, plain)
	require.Nil(t, resp)
	require.Equal(t, plain, err)
	_, err = answer(nil, logical.ErrReadOnly)
	require.True(t, err == logical.ErrReadOnly, "sentinels stay the outermost value")
	for kind, status := range map[client.Kind]int{
		client.Refused: 400, client.NotFound: 400, client.QuotaExceeded: 400, client.Unauthenticated: 400, client.PermissionDenied: 400,
		client.Throttled: 429, client.Unavailable: 502, client.Canceled: 502, client.Timeout: 504,
	} {
		resp, err := answer(nil, &client.Error{Op: "token/create", Kind: kind, Status: 403})
		if status == 400 {
			require.NoError(t, err)
			require.True(t, resp.IsError(), kind)
			continue
		}
		var coded logical.HTTPCodedError
		require.ErrorAs(t, err, &coded)
		require.Equal(t, status, coded.Code(), kind)
	}
}
