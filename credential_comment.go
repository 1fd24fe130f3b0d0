// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"
)

const (
	// defaultComment names the role and the caller, so that Databricks' audit log and token list show who requested the
	// credential.
	defaultComment = `Vault role {{.RoleName}} for {{or .EntityName .DisplayName "an unnamed caller"}}`

	// maxCallerComment limits what a request may add to the comment, in bytes.
	maxCallerComment = 100
)

// commentText executes the role's template for a request and appends the caller's own comment. It looks up the entity in Vault
// only if the template uses its name.
func (b *backend) commentText(req *logical.Request, roleName string, role *roleEntry, added string) (string, error) {
	if role.unusable != nil {
		return "", role.unusable
	}
	data := commentData{RoleName: roleName, DisplayName: req.DisplayName, RequestID: req.ID, MountPath: req.MountPoint}
	if req.EntityID != "" && (role.Comment+role.DisplayNameTemplate == "" || strings.Contains(role.Comment+role.DisplayNameTemplate, "EntityName")) {
		entity, err := b.System().EntityInfo(req.EntityID)
		if err != nil {
			return "", fmt.Errorf("look up the caller's entity in Vault: %w", err)
		}
		if entity != nil {
			data.EntityName = entity.Name
		}
	}
	text, err := role.text.execute(data)
	if err != nil {
		return "", badField(keyRole, "its template failed: %s", err)
	}
	if added != "" {
		text += ": " + added
	}
	return text, nil
}
