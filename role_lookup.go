// SPDX-License-Identifier: MPL-2.0

package databricks

// noteLookup notes where the role is looked up. It returns the role of before to compare with: an empty one if that was looked up elsewhere, so
// that all is looked up again.
func (r *roleEntry) noteLookup(conn *connection, old *roleEntry) *roleEntry {
	here := conn.config.knownOrigin()
	moved := old.LookedUp != nil && !old.LookedUp.sameWorkspace(here)
	if moved || old.lookedUp() != r.lookedUp() {
		r.LookedUp = &origin{Host: here.Host, WorkspaceID: here.WorkspaceID, AccountID: here.AccountID}
	}
	if !moved {
		return old
	}
	if r.DatabaseHost == old.DatabaseHost {
		r.DatabaseHost = ""
	}
	return new(roleEntry)
}

// fitsPlace refuses a role whose ids, group or database were looked up at another workspace than the one given.
func (r *roleEntry) fitsPlace(name string, here origin) error {
	spec := r.spec()
	resolved := spec.Named() || spec.Assumed.ID != "" || spec.DatabaseHost != ""
	if r.LookedUp == nil || !resolved || r.LookedUp.sameWorkspace(here) {
		return nil
	}
	return badField("config", "leads to %s now, but what role %q names was looked up at %s; write the role again, so that it is looked up there", here.describe(), name, r.LookedUp.describe())
}
