// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// managedTokenInfo is TokenInfo of the token management API.
type managedTokenInfo struct {
	publicTokenInfo
	CreatedByID       int64  `json:"created_by_id"`
	CreatedByUsername string `json:"created_by_username"`
	OwnerID           int64  `json:"owner_id"`
	LastUsedDay       int64  `json:"last_used_day,omitempty"` // epoch milliseconds of the day's start
	WorkspaceID       int64  `json:"workspace_id"`
}

func (w *Workspace) managed(t *token) managedTokenInfo {
	info := managedTokenInfo{
		publicTokenInfo:   t.public(),
		CreatedByID:       numeric(t.creator.ID),
		CreatedByUsername: t.creator.UserName,
		OwnerID:           numeric(t.owner.ID),
		WorkspaceID:       numeric(w.settings.workspaceID),
	}
	if !t.lastUsed.IsZero() {
		info.LastUsedDay = t.lastUsed.UTC().Truncate(24 * time.Hour).UnixMilli()
	}
	return info
}

// numeric is the int64 behind an id that is known to be a number.
func numeric(id string) int64 {
	n, _ := strconv.ParseInt(id, 10, 64)
	return n
}

// adminOnly wraps a handler of the token management API.
func adminOnly(h handler) handler {
	return func(w *Workspace, r *request) (any, *refusal) {
		if !w.isAdmin(r.caller) {
			return nil, refuse(http.StatusForbidden, "PERMISSION_DENIED", "Only workspace admins can manage the tokens of others.")
		}
		return h(w, r)
	}
}

// listManagedTokens lists live tokens of everybody. Both filters given, both
// must fit.
func (w *Workspace) listManagedTokens(r *request) (any, *refusal) {
	query := r.URL.Query()
	byID, byName := query.Get("created_by_id"), query.Get("created_by_username")
	if byID != "" {
		if _, err := strconv.ParseInt(byID, 10, 64); err != nil {
			return nil, refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE", fmt.Sprintf("created_by_id %q is not a number.", byID))
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.settings.now()
	var infos []managedTokenInfo
	for _, t := range w.ordered {
		if t.liveAt(now) && (byID == "" || t.creator.ID == byID) && (byName == "" || t.creator.UserName == byName) {
			infos = append(infos, w.managed(t))
		}
	}
	return listOf("token_infos", infos), nil
}

func (w *Workspace) getManagedToken(r *request) (any, *refusal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.liveToken(r.PathValue("token_id"))
	if t == nil {
		return nil, noManagedToken()
	}
	return map[string]any{"token_info": w.managed(t)}, nil
}

func (w *Workspace) deleteManagedToken(r *request) (any, *refusal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.liveToken(r.PathValue("token_id"))
	if t == nil {
		return nil, noManagedToken()
	}
	t.owner.tokens.delete(t)
	return nil, nil
}

// noManagedToken has the form of the Terraform provider's fixtures.
func noManagedToken() *refusal {
	return refuse(http.StatusNotFound, "NOT_FOUND", "Token does not exist.")
}
