// SPDX-License-Identifier: MPL-2.0

package simulator

import "net/http"

// createOnBehalfOf makes a token for a service principal, which an admin asks
// for. On Azure it is refused with the observed text (databricks/cli issue 596);
// its status was not recorded, only that the code is a number. The code for a
// service principal that may not use tokens is not documented either.
func (w *Workspace) createOnBehalfOf(r *request) (any, *refusal) {
	if w.settings.cloud == "azure" {
		return nil, refuse(http.StatusBadRequest, "400", "On-behalf-of token creation for service principals is not enabled for this workspace")
	}
	var body struct {
		newToken
		ApplicationID string `json:"application_id"`
	}
	if refused := r.decode(&body); refused != nil {
		return nil, refused
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	sp := w.byName[body.ApplicationID]
	if sp == nil || sp.ApplicationID == "" || !sp.inWorkspace {
		return nil, refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "expected to have application id of the service principal")
	}
	if !sp.Admin && !sp.mayUseTokens {
		return nil, refuse(http.StatusForbidden, "PERMISSION_DENIED", "Service principal does not have permission to use tokens.")
	}
	t, value, refused := w.mintToken(&body.newToken, sp, r.caller)
	if refused != nil {
		return nil, refused
	}
	return map[string]any{"token_value": value, "token_info": w.managed(t)}, nil
}
