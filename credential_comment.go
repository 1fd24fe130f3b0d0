// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"crypto/rand"
	"fmt"
	"regexp"
	"strings"

	"github.com/hashicorp/vault/sdk/helper/template"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	// defaultComment names the role and the caller, so that Databricks' audit log and token list show who requested the
	// credential.
	defaultComment = `Vault role {{.RoleName}} for {{or .EntityName .DisplayName "an unnamed caller"}}`

	// maxTemplate limits a comment template, in bytes.
	maxTemplate = 1024

	// maxCallerComment limits what a request may add to the comment, in bytes.
	maxCallerComment = 100
)

// commentData has the fields that a comment template can use.
type commentData struct {
	RoleName, DisplayName, EntityName, RequestID, MountPath string
}

// parseComment compiles a role's comment template; "" means defaultComment. Its error describes the mistake and is for a
// fieldError.
func parseComment(text string) (*template.StringTemplate, error) {
	if text == "" {
		text = defaultComment
	}
	if len(text) > maxTemplate {
		return nil, fmt.Errorf("is %d bytes long; the limit is %d", len(text), maxTemplate)
	}
	if loops.MatchString(text) {
		return nil, fmt.Errorf("may not loop; use plain fields, functions and if")
	}
	options := []template.Opt{template.Template(text), template.Function("random", boundedRandom), template.Function("replace", boundedReplace)}
	for _, name := range []string{"printf", "print", "println", "html", "js", "urlquery"} {
		options = append(options, template.Function(name, func(...any) (string, error) {
			return "", fmt.Errorf("%s is not available in comments", name)
		}))
	}
	compiled, err := template.NewTemplate(options...)
	if err != nil {
		return nil, err
	}
	sample := commentData{RoleName: "role", DisplayName: "display-name", EntityName: "entity", RequestID: "00000000-0000-0000-0000-000000000000", MountPath: "databricks/"}
	if _, err := compiled.Generate(sample); err != nil {
		return nil, fmt.Errorf("%w; the fields are .RoleName, .DisplayName, .EntityName, .RequestID and .MountPath", err)
	}
	return &compiled, nil
}

// loops matches the actions with which a template could run forever. Nested function calls could exhaust the memory of the
// process, so functions that can multiply their input are limited or disabled.
var loops = regexp.MustCompile(`\{\{-?\s*(range|define|template|block)\b`)

// boundedRandom is the template library's random with a limit on its result.
func boundedRandom(length int) (string, error) {
	if length < 1 || length > 64 {
		return "", fmt.Errorf("random takes 1 to 64, not %d", length)
	}
	var text strings.Builder
	for text.Len() < length {
		text.WriteString(rand.Text())
	}
	return text.String()[:length], nil
}

// boundedReplace is the template library's replace with a limit on its result.
func boundedReplace(find, replacement, text string) (string, error) {
	const limit = 4 * maxTemplate
	if n := strings.Count(text, find); len(text)+n*(len(replacement)-len(find)) > limit {
		return "", fmt.Errorf("replace would return more than %d bytes", limit)
	}
	return strings.ReplaceAll(text, find, replacement), nil
}

// commentText executes the role's template for a request and appends the caller's own comment. It looks up the entity in Vault
// only if the template uses its name.
func (b *backend) commentText(req *logical.Request, roleName string, role *roleEntry, added string) (string, error) {
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
	text, err := role.text.Generate(data)
	if err != nil {
		return "", badField(keyRole, "its template failed: %s", err)
	}
	if added != "" {
		text += ": " + added
	}
	return text, nil
}
