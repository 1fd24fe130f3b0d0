// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// TestStatusesApartFromTheirCodes: the envelope stays, and so does what an injected fault says.
func TestStatusesApartFromTheirCodes(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.WithStatuses(map[string]int{"RESOURCE_DOES_NOT_EXIST": 400, "RESOURCE_ALREADY_EXISTS": 409, "SCIM_404": 400, "PERMISSION_DENIED": 404}))
	token, _ := w.AddToken(w.AddUser("root@example.com", true), "", 0)
	alice, _ := w.AddToken(w.AddUser("alice@example.com", false), "", 0)
	requireRefused(t, send(t, w, "POST", pathScopesDelete, token, `{"scope":"s"}`), 400, "RESOURCE_DOES_NOT_EXIST")
	requireDone(t, send(t, w, "POST", "/api/2.0/secrets/scopes/create", token, `{"scope":"s"}`))
	requireRefused(t, send(t, w, "POST", "/api/2.0/secrets/scopes/create", token, `{"scope":"s"}`), 409, "RESOURCE_ALREADY_EXISTS")
	requireRefused(t, send(t, w, "POST", pathScopesDelete, alice, `{"scope":"s"}`), 404, "PERMISSION_DENIED")
	a := send(t, w, "GET", "/api/2.0/preview/scim/v2/ServicePrincipals/1", token, "")
	require.Equal(t, 400, a.status)
	require.Equal(t, "404", a.json(t)["status"])
	requireRefused(t, send(t, w, "GET", "/api/2.0/none", token, ""), 404, "ENDPOINT_NOT_FOUND")

	w.Inject(simulator.Fault{Status: 403, ErrorCode: "PERMISSION_DENIED"})
	requireRefused(t, send(t, w, "GET", pathList, token, ""), 403, "PERMISSION_DENIED")
}
