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

// defaultText and defaultStaticText stand in for the template of a role, or of a static role, that fails.
var defaultText, defaultStaticText = mustParseTemplate(defaultComment), mustParseTemplate(defaultStaticComment)

func mustParseTemplate(text string) *textTemplate {
	parsed, err := parseTemplate(text)
	if err != nil {
		panic(err)
	}
	return parsed
}

// commentText executes the role's template for a request and appends the caller's own comment. It looks up the entity in Vault only if the
// template uses its name. A template that fails stops no mint and no rotation: the default one is used, with a warning for the answer,
// which is logged once until the role is written again.
func (b *backend) commentText(req *logical.Request, roleName string, role *roleEntry, added string) (text, warning string, err error) {
	data := commentData{RoleName: roleName, DisplayName: req.DisplayName, RequestID: req.ID, MountPath: req.MountPoint}
	field, template := role.template()
	err = role.unusable
	if err == nil {
		if template == "" || strings.Contains(template, "EntityName") {
			if data.EntityName, err = b.entityName(req); err != nil {
				return "", "", err
			}
		}
		text, err = role.text.execute(data)
	}
	if err != nil {
		warning = fmt.Sprintf("%s: the role's template failed, so the default one was used; write the role with another template: %s", field, err)
		b.reportTemplate(roleName, role, field, err)
		standIn := defaultStaticText
		if !role.stored {
			standIn = defaultText
			if data.EntityName, err = b.entityName(req); err != nil {
				return "", "", err
			}
		}
		if text, err = standIn.execute(data); err != nil {
			return "", "", err
		}
	}
	if added != "" {
		text += ": " + added
	}
	return text, warning, nil
}

// entityName returns the name of the caller's entity, "" for a caller without one.
func (b *backend) entityName(req *logical.Request) (string, error) {
	if req.EntityID == "" {
		return "", nil
	}
	entity, err := b.host().EntityInfo(req.EntityID)
	if err != nil {
		return "", fmt.Errorf("look up the caller's entity in Vault: %w", err)
	}
	if entity == nil {
		return "", nil
	}
	return entity.Name, nil
}

// reportTemplate logs, once until the role is written again, that its template fails.
func (b *backend) reportTemplate(name string, role *roleEntry, field string, err error) {
	key, kind := roleStoragePrefix+name, "role"
	if role.stored {
		key, kind = staticStoragePrefix+name, "static role"
	}
	if _, reported := b.reportedTemplates.LoadOrStore(key, true); !reported {
		b.Logger().Warn("the template of a "+kind+" failed, so the default one is used where it does; write the role with another template", "name", name, "field", field, "error", err)
	}
}

// template returns the field that has the template of the comment or of the display name, and the template, empty for defaultComment.
func (r *roleEntry) template() (field, text string) {
	if r.DisplayNameTemplate != "" {
		return keyDisplayNameTemplate, r.DisplayNameTemplate
	}
	return keyComment, r.Comment
}

// compile compiles the template. Version 0.1.0 stored some that can't be used any more.
func (r *roleEntry) compile() {
	_, text := r.template()
	if text == "" {
		r.text, r.unusable = defaultText, nil // shared by all roles without one
		return
	}
	r.text, r.unusable = parseTemplate(text)
}

// checkTemplate refuses a template that fails or swells with one of the samples. Before is the stored role, or an empty one: a template that
// it has already is not refused, since a mint goes on without it.
func (r *roleEntry) checkTemplate(before *roleEntry, samples []commentData) error {
	field, text := r.template()
	if storedField, stored := before.template(); text == "" || field == storedField && text == stored {
		return nil
	}
	if err := checkTemplate(text, samples); err != nil {
		return badField(field, "%s", err)
	}
	return nil
}

// addTemplateWarning warns of a stored template that fails, or does so with one of the samples.
func (r *roleEntry) addTemplateWarning(resp *logical.Response, samples []commentData) {
	field, text := r.template()
	if text == "" {
		return
	}
	if err := templateFails(text, samples); err != nil {
		resp.AddWarning(fmt.Sprintf("%s: this template fails for some callers or for all, who get credentials with the default one; write the role with another template: %s", field, err))
	}
}
