// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/errutil"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// TestSecretsOfTheWrongTypeAreNotShown shows that what was sent as a secret is in no error, whatever its type.
func TestSecretsOfTheWrongTypeAreNotShown(t *testing.T) {
	t.Parallel()
	m := ready(t)
	for path, data := range map[string]map[string]any{
		"secrets/etl/k": {"string_value": map[string]any{"password": "Hunter2Secret"}},
		"secrets/etl/l": {"bytes_value": []any{"Hunter2Secret"}},
		"secrets/etl":   {"secrets": "Hunter2Secret"},
		"secrets/ops":   {"secrets": map[string]any{"Hunter2Secret !": "key"}},
		"config":        {"token": map[string]any{"value": "Hunter2Secret"}},
	} {
		resp, err := m.do(logical.UpdateOperation, path, data)
		if mistake := (errutil.UserError{}); errors.As(err, &mistake) {
			resp, err = logical.ErrorResponse(mistake.Err), nil
		}
		m.refused(resp, err)
		require.NotContains(t, resp.Error().Error(), "Hunter2Secret", path)
	}
}

// TestAnEmptyTTLIsNotForGood shows that where a policy demands a ttl, an empty one is refused.
func TestAnEmptyTTLIsNotForGood(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	for _, ttl := range []any{0, "0", "0s", "", nil} {
		resp, err := m.do(logical.UpdateOperation, "acls/etl/users", map[string]any{"permission": "MANAGE", "ttl": ttl})
		m.refused(resp, err, "ttl: ")
		resp, err = m.do(logical.UpdateOperation, "secrets/etl/k", map[string]any{"string_value": "x", "ttl": ttl})
		m.refused(resp, err, "ttl: ")
		resp, err = m.do(logical.UpdateOperation, "creds/etl", map[string]any{"ttl": ttl})
		m.refused(resp, err, "ttl: ")
	}
	require.Empty(t, m.acl("users"))
	require.Empty(t, m.minted())
}

// TestGrantIsRecordedWhileItIsWaitedFor shows that wait=true leaves no moment in which neither a lease nor an intent
// answers for a permission.
func TestGrantIsRecordedWhileItIsWaitedFor(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.SetACLDelay(1 << 20)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := m.send(ctx, logical.UpdateOperation, "acls/etl/users", map[string]any{"permission": "READ", "ttl": "1h", "wait": true})
		failed <- err
	}()
	require.Eventually(t, func() bool { return m.acl("users") == "READ" }, 10*time.Second, time.Millisecond)
	require.Len(t, m.walEntries(), 1)
	cancel()
	require.ErrorIs(t, <-failed, context.Canceled)
	require.Empty(t, m.acl("users"))
	require.Empty(t, m.walEntries())
}

// TestManageByLeaseDoesNotCount shows that the engine can't give up its own MANAGE for one that ends.
func TestManageByLeaseDoesNotCount(t *testing.T) {
	t.Parallel()
	m := ready(t)
	engine := m.workspace.AddUser("modest@example.com", false)
	token, _ := m.workspace.AddToken(engine, "the engine's own", 0)
	m.write("config", map[string]any{"token": token})
	m.workspace.AddScope("etl", m.admin)
	m.workspace.AddGroup("owners", engine)
	m.workspace.AddGroup("helpers", engine)
	m.workspace.PutACL("etl", "owners", "MANAGE")
	m.write("acls/etl/helpers", map[string]any{"permission": "MANAGE", "ttl": "1h"})
	resp, err := m.do(logical.DeleteOperation, "acls/etl/owners", nil)
	m.refused(resp, err, "lock itself out")
	m.write("acls/etl/helpers", map[string]any{"permission": "MANAGE"})
	resp, err = m.do(logical.DeleteOperation, "acls/etl/owners", nil)
	m.requireOK(resp, err)
}
