// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"fmt"
	"net/http"
	"strings"
)

// WithAccount gives the workspace an account, whose API is served on the same
// host under paths with its id. The workspace shares the account's identities:
// what is created in the workspace is in the account, too, and what is deleted
// from the workspace stays there.
func WithAccount(accountID string) Option { return func(s *settings) { s.accountID = accountID } }

// WithUnifiedHost makes the workspace one of several behind its host: requests
// for it must name it in the header X-Databricks-Workspace-Id.
func WithUnifiedHost() Option { return func(s *settings) { s.unified = true } }

// AccountID is the id of the account, empty without [WithAccount].
func (w *Workspace) AccountID() string { return w.settings.accountID }

// underAccount reports whether a path is of the account plane. Paths of the
// workspace's proxy for secrets of service principals look alike.
func underAccount(r *request) bool {
	rest, ok := strings.CutPrefix(r.URL.Path, "/api/2.0/accounts/")
	return ok && !strings.HasPrefix(rest, "servicePrincipals/")
}

func underWorkspace(r *request) bool {
	return strings.HasPrefix(r.URL.Path, "/api/") && !underAccount(r)
}

// enterAccount refuses callers of the account plane who aren't account admins.
func (w *Workspace) enterAccount(r *request) *refusal {
	switch id := r.PathValue("account_id"); {
	case w.settings.accountID == "":
		return noEndpoint(r)
	case id != w.settings.accountID:
		// The real form of this refusal is unknown.
		return refuse(http.StatusNotFound, "NOT_FOUND", fmt.Sprintf("Account %s is not served by this host.", id))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !r.caller.AccountAdmin {
		return refuse(http.StatusForbidden, "PERMISSION_DENIED", "This API is disabled for users without account admin status.")
	}
	return nil
}

// ofAccount wraps a public handler of the account's OAuth endpoints.
func ofAccount(h handler) handler {
	return func(w *Workspace, r *request) (any, *refusal) {
		if id := w.settings.accountID; id == "" || r.PathValue("account_id") != id {
			return nil, noEndpoint(r)
		}
		return h(w, r)
	}
}
