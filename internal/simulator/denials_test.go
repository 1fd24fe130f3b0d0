// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"errors"
	"testing"

	"github.com/databricks/databricks-sdk-go/apierr"
	"github.com/databricks/databricks-sdk-go/service/iam"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// TestDenialsThroughTheSDK: whoever has a good credential is refused in the recorded words.
func TestDenialsThroughTheSDK(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.WithWorkspaceID("4711"))
	token, _ := w.AddToken(w.AddUser("engine@example.com", true), "", 0)
	me := func() error {
		_, err := iam.NewCurrentUser(sdk(t, w, token)).Me(t.Context(), iam.MeRequest{})
		return err
	}
	require.NoError(t, me())
	for text, fault := range map[string]simulator.Fault{
		"Source IP address: 203.0.113.7 is blocked by Databricks IP ACL for workspace: 4711": w.BlockedAddress("203.0.113.7"),
		"Unauthorized network access to workspace: 4711":                                     w.BlockedNetwork(),
		"Invalid access to Org: 4711":                                                        w.ForeignOrg(),
	} {
		fault.Path = "/api/*"
		injected := w.Inject(fault)
		err := me()
		require.ErrorContains(t, err, text)
		refused, ok := errors.AsType[*apierr.APIError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, 403, refused.StatusCode)
		injected.Clear()
	}
	require.NoError(t, me())
}
