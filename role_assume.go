// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"

	"vault-plugin-secrets-databricks/internal/client"
)

// lookUpAssumed completes the group whose rights credentials have, or refuses an id and a display name of different ones. A group that the role
// has from before is looked up only if the request names it by one of the two.
func (r *roleEntry) lookUpAssumed(ctx context.Context, conn *connection, old *roleEntry) error {
	group := r.spec().Assumed
	if group == (client.Group{}) || group == old.spec().Assumed && r.CredentialType == old.CredentialType {
		return nil
	}
	field, value := keyAssumeGroup, group.DisplayName
	if group.ID != "" {
		field, value = keyAssumeGroupID, group.ID
	}
	found, err := conn.client.FindGroup(ctx, value)
	if client.IsGone(err) {
		return badField(field, "there is no group %q at %s, by id or by display name; add it there, or correct it", value, conn.config.Host)
	}
	if err != nil {
		return fmt.Errorf("look up the group of %s: %w", field, err)
	}
	if group.ID != "" && found.ID != group.ID {
		return badField(field, "there is no group with the id %q at %s", value, conn.config.Host)
	}
	if group.ID != "" && group.DisplayName != "" && group.DisplayName != found.DisplayName {
		return badField(keyAssumeGroup, "%q is not the display name of group %s, which is %q; send one of them", group.DisplayName, group.ID, found.DisplayName)
	}
	r.AssumeGroup, r.AssumeGroupID = found.DisplayName, found.ID
	return nil
}
