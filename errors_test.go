// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"vault-plugin-secrets-databricks/internal/client"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

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

// TestErrorsOfVaultAreSaidPlainly shows that the form of gRPC is left out of what users read.
func TestErrorsOfVaultAreSaidPlainly(t *testing.T) {
	t.Parallel()
	over := errors.New("rpc error: code = Internal desc = failed to do it")
	resp, err := answer(nil, fmt.Errorf("again: %w", badField("field", "Vault failed: %s", over)))
	require.NoError(t, err)
	require.EqualError(t, resp.Error(), "again: field: Vault failed: failed to do it")
	_, err = answer(nil, fmt.Errorf("%w: %w", logical.CodedError(http.StatusConflict, "changed"), over))
	require.EqualError(t, err, "changed: failed to do it")
}
