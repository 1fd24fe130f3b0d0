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
	// defaultComment names who asked and through which role, so that Databricks' audit log and token list name the human.
	defaultComment = `Vault role {{.RoleName}} for {{or .EntityName .DisplayName "an unnamed caller"}}`

	// maxTemplate bounds a comment template, in bytes.
	maxTemplate = 1024

	// maxCallerComment bounds what one request may add to the comment, in bytes.
	maxCallerComment = 100
)

// commentData is what a comment template may use.
type commentData struct {
	RoleName, DisplayName, EntityName, RequestID, MountPath string
}

// parseComment compiles a role's comment template; the empty one means the default. The error says what is wrong with the
// template, for a 400.
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

// loops finds what could make a template run for ever. What could fill the memory of every mount are functions that are
// called on each other's results, so those that multiply are bounded or not there.
var loops = regexp.MustCompile(`\{\{-?\s*(range|define|template|block)\b`)

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

// boundedReplace replaces as the template library's function does, but never makes much out of little.
func boundedReplace(find, replacement, text string) (string, error) {
	const limit = 4 * maxTemplate
	if n := strings.Count(text, find); len(text)+n*(len(replacement)-len(find)) > limit {
		return "", fmt.Errorf("replace would make a text of more than %d bytes", limit)
	}
	return strings.ReplaceAll(text, find, replacement), nil
}

// commentText fills the role's template for a request and adds what the caller wants to say.
func (b *backend) commentText(req *logical.Request, roleName string, role *roleEntry, added string) (string, error) {
	data := commentData{RoleName: roleName, DisplayName: req.DisplayName, RequestID: req.ID, MountPath: req.MountPoint}
	if req.EntityID != "" && (role.Comment+role.DisplayNameTemplate == "" || strings.Contains(role.Comment+role.DisplayNameTemplate, "EntityName")) {
		entity, err := b.System().EntityInfo(req.EntityID)
		if err != nil {
			return "", fmt.Errorf("ask Vault who the caller is: %w", err)
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
