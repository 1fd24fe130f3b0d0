// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// askedVault counts what Vault is asked.
type askedVault struct {
	logical.SystemView
	ttls, entities atomic.Int64
	entityErr      error
}

func (v *askedVault) MaxLeaseTTL() time.Duration {
	v.ttls.Add(1)
	return v.SystemView.MaxLeaseTTL()
}

func (v *askedVault) DefaultLeaseTTL() time.Duration {
	v.ttls.Add(1)
	return v.SystemView.DefaultLeaseTTL()
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
	for range 10 {
		m.mint("usual")
	}
	require.Zero(t, vault.ttls.Load())
	require.Zero(t, vault.entities.Load())

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
