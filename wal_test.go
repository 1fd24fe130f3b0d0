// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"encoding/json"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/marker"
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
	mark, ok := marker.Parse(m.minted()[0].Comment)
	require.True(t, ok)
	require.Equal(t, mark.Nonce, kept.Data.Nonce)
	require.Empty(t, kept.Data.Credential.KeepID)
}
