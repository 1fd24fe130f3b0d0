// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// TestMountsShareTheirPathsAndNothingElse makes all mounts get their first requests at once: the race detector sees whether one writes to
// what all share.
func TestMountsShareTheirPathsAndNothingElse(t *testing.T) {
	t.Parallel()
	mounts, fresh := make([]*mount, 8), newPaths() // the other tests' mounts may have written to theirs
	for i := range mounts {
		mounts[i] = newMount(t)
		mounts[i].backend.(*backend).Paths = fresh
	}
	names := make([][]string, len(mounts))
	var all sync.WaitGroup
	for i, m := range mounts {
		all.Go(func() {
			handle := func(op logical.Operation, path string, data map[string]any) *logical.Response {
				resp, err := m.backend.HandleRequest(context.Background(), &logical.Request{Operation: op, Path: path, Data: data, Storage: m.storage, MountPoint: fmt.Sprintf("databricks-%d/", i)})
				if err != nil || resp.IsError() {
					t.Error(op, path, resp, err)
					return &logical.Response{}
				}
				return resp
			}
			handle(logical.HelpOperation, "", nil)
			handle(logical.UpdateOperation, "config", map[string]any{"host": m.workspace.URL(), "token": m.token})
			handle(logical.UpdateOperation, fmt.Sprintf("roles/r%d", i), map[string]any{"credential_type": "pat", "ttl": "10m", "max_ttl": "1h"})
			minted := handle(logical.ReadOperation, fmt.Sprintf("creds/r%d", i), nil)
			_, err := m.backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.RevokeOperation, Storage: m.storage, Secret: minted.Secret})
			if err != nil {
				t.Error(err)
			}
			names[i], _ = handle(logical.ListOperation, "roles/", nil).Data["keys"].([]string)
			handle(logical.HelpOperation, "creds/r", nil)
		})
	}
	all.Wait()
	for i, m := range mounts {
		require.Equal(t, []string{fmt.Sprintf("r%d", i)}, names[i])
		require.Empty(t, m.minted(), "each mount's own credential was revoked")
	}
}

// TestSharedPathsAreAnchored: the framework would anchor them at the first request of each mount, while others read them.
func TestSharedPathsAreAnchored(t *testing.T) {
	t.Parallel()
	for _, path := range newPaths() { // which no mount has seen yet
		require.True(t, strings.HasPrefix(path.Pattern, "^") && !strings.HasPrefix(path.Pattern, "^^"), path.Pattern)
		require.True(t, strings.HasSuffix(path.Pattern, "$") && !strings.HasSuffix(path.Pattern, "$$"), path.Pattern)
	}
}
