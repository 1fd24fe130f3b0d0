// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// askedVault counts what Vault is asked.
type askedVault struct {
	logical.SystemView
	ttls, entities, states atomic.Int64
	entityErr              error
}

func (v *askedVault) MaxLeaseTTL() time.Duration {
	v.ttls.Add(1)
	return v.SystemView.MaxLeaseTTL()
}

func (v *askedVault) DefaultLeaseTTL() time.Duration {
	v.ttls.Add(1)
	return v.SystemView.DefaultLeaseTTL()
}

func (v *askedVault) ReplicationState() consts.ReplicationState {
	v.states.Add(1)
	return v.SystemView.ReplicationState()
}

func (v *askedVault) EntityInfo(id string) (*logical.Entity, error) {
	v.entities.Add(1)
	if v.entityErr != nil {
		return nil, v.entityErr
	}
	return v.SystemView.EntityInfo(id)
}

// TestMintsAskVaultOnce shows that mints don't ask Vault again for what it answered seconds ago, and that they do when it is older.
func TestMintsAskVaultOnce(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	vault := &askedVault{SystemView: m.system}
	m.host = vault
	m.restart()
	m.connect()
	m.write("roles/usual", map[string]any{"credential_type": "pat"})
	m.mint("usual")
	vault.ttls.Store(0)
	vault.entities.Store(0)
	before := vault.states.Load()
	for range 10 {
		m.mint("usual")
	}
	require.Zero(t, vault.ttls.Load())
	require.Zero(t, vault.entities.Load())
	require.LessOrEqual(t, vault.states.Load(), before+1, "the first mint after another request asks")

	b := m.backend.(*backend)
	b.hostCache.longest.at = time.Now().Add(-hostFresh)
	m.system.MaxLeaseTTLVal = time.Hour
	require.Equal(t, time.Hour, m.mint("usual").Secret.MaxTTL)
	require.Equal(t, int64(1), vault.ttls.Load())
}

// TestAnUnansweredQuestionIsAskedAgain shows that only answers are remembered.
func TestAnUnansweredQuestionIsAskedAgain(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	vault := &askedVault{SystemView: m.system, entityErr: errors.New("Vault is sealed")}
	m.host = vault
	m.restart()
	m.connect()
	m.write("roles/usual", map[string]any{"credential_type": "pat"})
	for range 2 {
		_, err := m.do(logical.ReadOperation, "creds/usual", nil)
		require.ErrorContains(t, err, "Vault is sealed")
	}
	require.Equal(t, int64(2), vault.entities.Load())
	vault.entityErr = nil
	m.mint("usual")
}

// TestANodeThatBecameAStandbyMintsNothing shows that a replication state of seconds ago does no harm: Vault refuses the first write of a mint,
// and every other request asks anew.
func TestANodeThatBecameAStandbyMintsNothing(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.mint("etl")
	m.system.ReplicationStateVal = consts.ReplicationPerformanceStandby
	m.storage.onEach(func(op, _ string) error {
		if op == "put" || op == "delete" {
			return logical.ErrReadOnly
		}
		return nil
	})
	m.workspace.ResetCalls()
	_, err := m.do(logical.ReadOperation, "creds/etl", nil)
	require.ErrorIs(t, err, logical.ErrReadOnly)
	_, err = m.do(logical.DeleteOperation, "tokens/"+strings.Repeat("0", 64), nil)
	require.Equal(t, logical.ErrReadOnly, err)
	_, err = m.do(logical.ReadOperation, "creds/etl", nil)
	require.Equal(t, logical.ErrReadOnly, err, "what Vault said to the other request is not forgotten")
	require.Empty(t, m.workspace.Calls())
}

// TestEntitiesAreNotRememberedWithoutBound shows that many callers don't fill the memory.
func TestEntitiesAreNotRememberedWithoutBound(t *testing.T) {
	t.Parallel()
	view := hostView{logical.TestSystemView(), new(hostCache)}
	for i := range 3 * maxEntities {
		_, err := view.EntityInfo(time.Duration(i).String())
		require.NoError(t, err)
		require.LessOrEqual(t, len(view.cache.entities), maxEntities)
	}
}
