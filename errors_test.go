// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"errors"
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
