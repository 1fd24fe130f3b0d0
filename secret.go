// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
	"vault-plugin-secrets-databricks/internal/client"

	"github.com/hashicorp/vault/sdk/framework"
)

// secretRef says which secret is meant: by scope and key, or by its full name in Unity Catalog.
type secretRef struct {
	Scope string `json:"scope"`
	Key   string `json:"key"`
	UC    string `json:"uc_secret,omitempty"` // full name of a secret in Unity Catalog, else empty
}

func (p secretRef) String() string {
	if p.UC != "" {
		return p.UC
	}
	return p.Scope + "/" + p.Key
}

// canonical returns the canonical form, by which secrets are locked and compared: names of scopes and keys ignore case (Databricks
// guide "Secret management"), and so do those in Unity Catalog. No scope has a colon in its name.
func (p secretRef) canonical() string {
	if p.UC != "" {
		return "uc:" + strings.ToLower(p.UC)
	}
	return strings.ToLower(p.String())
}

// complete reports whether the secret is named in full.
func (p secretRef) complete() bool { return p.UC != "" || p.Scope != "" && p.Key != "" }

// names returns the names of the secret for events and the log, as pairs.
func (p secretRef) names() []string {
	if p.UC != "" {
		return []string{keyUCSecret, p.UC}
	}
	return []string{keyScope, p.Scope, keyKey, p.Key}
}

// logNames is names in the form that loggers take.
func (p secretRef) logNames() []any {
	var names []any
	for _, name := range p.names() {
		names = append(names, name)
	}
	return names
}

// eventKind returns the kind of an event about the secret.
func (p secretRef) eventKind(what string) string {
	if p.UC != "" {
		return "uc-secret-" + what
	}
	return "secret-" + what
}

// answer returns the names of the secret as fields of an answer.
func (p secretRef) answer() map[string]any {
	if p.UC != "" {
		catalog, schema, name := p.ucNames()
		return map[string]any{keyCatalog: catalog, keySchema: schema, keyName: name, keyFullName: p.UC}
	}
	return map[string]any{keyScope: p.Scope, keyKey: p.Key}
}

// rules returns what the value of the secret can be.
func (p secretRef) rules() valueRules {
	if p.UC != "" {
		return ucValues
	}
	return scopeValues
}

// secretRefOf returns the secret that a request names. Invalid names are a fieldError.
func secretRefOf(data *framework.FieldData) (secretRef, error) {
	if _, uc := data.Schema[keyCatalog]; uc {
		return ucRef(data.Get(keyCatalog).(string), data.Get(keySchema).(string), data.Get(keyName).(string))
	}
	ref := secretRef{Scope: data.Get(keyScope).(string), Key: data.Get(keyKey).(string)}
	return ref, ref.check(keyScope, keyKey)
}

// check refuses names that no scope and no key can have, by the names of their fields.
func (p secretRef) check(scopeField, keyField string) error {
	if err := checkName(scopeField, p.Scope); err != nil {
		return err
	}
	return checkKey(keyField, p.Key)
}

// explainMissing returns err or, if it says that there is no such scope or key, a fieldError where a scope with a slash in its name is meant.
func (p secretRef) explainMissing(ctx context.Context, conn *connection, err error) error {
	if p.UC != "" || !client.IsGone(err) {
		return err
	}
	return cmp.Or(checkSlashes(ctx, conn, p.Scope, p.Key), err)
}

// lookAt returns what Databricks says of the secret, nil where there is none.
func lookAt(ctx context.Context, conn *connection, ref secretRef) (*seenSecret, error) {
	if ref.UC != "" {
		return lookAtUC(ctx, conn, ref, false)
	}
	secrets, err := conn.client.ListSecrets(ctx, ref.Scope)
	if client.IsGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return ref.in(secrets), nil
}

// lookAtValue is lookAt with the value of a secret in Unity Catalog, where the engine's identity may read it.
func lookAtValue(ctx context.Context, conn *connection, ref secretRef) (*seenSecret, error) {
	if ref.UC == "" {
		return lookAt(ctx, conn, ref)
	}
	seen, err := lookAtUC(ctx, conn, ref, true)
	if client.IsKind(err, client.PermissionDenied) {
		return lookAtUC(ctx, conn, ref, false)
	}
	return seen, err
}

// remove deletes the secret, whatever it holds, or only while still, asked before each repetition of the request, says so. That there is none is an
// error for which [client.IsGone] is true.
func (p secretRef) remove(ctx context.Context, conn *connection, still client.Recheck) error {
	if p.UC != "" {
		return conn.client.DeleteUCSecret(ctx, p.UC, still)
	}
	return conn.client.DeleteSecret(ctx, p.Scope, p.Key, still)
}

// explain adds advice to an error about the secret; need is the permission on its scope that the call requires. A nil error stays nil.
func (p secretRef) explain(err error, need string) error {
	if p.UC != "" {
		return explainUC(err, p.UC)
	}
	return explainSecrets(err, p.Scope, need)
}

// checkAbsent returns an error when Databricks lists the secret, or can't be asked. The caller holds the secret's lock, so no other request
// of this mount stores it meanwhile.
func checkAbsent(ctx context.Context, conn *connection, ref secretRef) error {
	seen, err := lookAt(ctx, conn, ref)
	if err != nil {
		return ref.explain(err, permissionRead)
	}
	return refuseOverwrite(ref, seen)
}

// refuseOverwrite returns a fieldError when a secret was seen, nil for none, that a request must not overwrite.
func refuseOverwrite(ref secretRef, seen *seenSecret) error {
	if seen == nil {
		return nil
	}
	written := ""
	if !seen.updated.IsZero() {
		written = " (last written " + rfc3339(seen.updated) + ")"
	}
	return badField(keyIfAbsent, "secret %s already exists%s and was not overwritten; choose another %s, or delete it first", ref, written, ref.nameField())
}

// in looks for the secret in a list of its scope. It returns nil where it isn't there.
func (p secretRef) in(listed []client.SecretInfo) (seen *seenSecret) {
	for _, secret := range listed {
		// Databricks ignores the case of keys. An exact match takes precedence.
		if secret.Key == p.Key {
			return &seenSecret{updated: secret.Updated}
		}
		if strings.EqualFold(secret.Key, p.Key) {
			seen = &seenSecret{updated: secret.Updated}
		}
	}
	return seen
}

// secretValue is a value to store at Databricks: a string or bytes.
type secretValue struct {
	text   client.Secret
	bytes  []byte // used when binary
	binary bool

	comment *string // of a secret in Unity Catalog, nil to leave it
	owner   string  // of a secret in Unity Catalog, empty to leave it
}

// valueRules are the bounds of values.
type valueRules struct {
	most     int    // bytes
	written  string // most as Databricks writes it
	textOnly bool   // bytes must be UTF-8
}

var scopeValues = valueRules{most: client.MaxSecretValue, written: "128 KB"}

// presence is what is known of a secret that is about to be written.
type presence int

const (
	mayExist     presence = iota
	wasAbsent             // a moment ago
	mustBeAbsent          // so that an existing one is not overwritten. In a scope, the caller has to look for it
)

// put stores the value. In Unity Catalog, it returns what Databricks says of the secret then, else nil.
func (v secretValue) put(ctx context.Context, conn *connection, ref secretRef, known presence) (stored *client.UCSecret, err error) {
	if ref.UC != "" {
		return v.putUC(ctx, conn, ref, known)
	}
	if v.binary {
		err = conn.client.PutSecretBytes(ctx, ref.Scope, ref.Key, v.bytes)
	} else {
		err = conn.client.PutSecretString(ctx, ref.Scope, ref.Key, v.text)
	}
	return nil, explainSecrets(err, ref.Scope, permissionWrite)
}

// valueOf returns the value that a request sends, or one generated by its password policy.
func (b *backend) valueOf(ctx context.Context, data *framework.FieldData, rules valueRules) (secretValue, error) {
	var sent []string
	for _, field := range []string{keyStringValue, keyBytesValue, keyPasswordPolicy} {
		if raw, ok := data.Raw[field]; ok && raw != nil {
			sent = append(sent, field)
		}
	}
	if len(sent) == 0 {
		return secretValue{}, badField(keyStringValue, "is missing; send exactly one of %s, %s and %s", keyStringValue, keyBytesValue, keyPasswordPolicy)
	}
	if len(sent) > 1 {
		return secretValue{}, badField(sent[1], "can't be sent together with %s; send exactly one of %s, %s and %s", sent[0], keyStringValue, keyBytesValue, keyPasswordPolicy)
	}
	text := data.Get(sent[0]).(string)
	switch sent[0] {
	case keyBytesValue:
		return rules.bytesValue(keyBytesValue, text)
	case keyPasswordPolicy:
		made, err := b.System().GeneratePasswordFromPolicy(ctx, text)
		if err != nil {
			if ctx.Err() != nil {
				return secretValue{}, ctx.Err()
			}
			// Over gRPC, all that Vault says is that it failed.
			return secretValue{}, badField(keyPasswordPolicy, "Vault can't generate a value by the policy %q (%s); check that it is one of sys/policies/password, and that it can be met", text, vaultSaid(err))
		}
		text = made
	}
	return rules.stringValue(sent[0], text)
}

func (r valueRules) stringValue(field, text string) (secretValue, error) {
	if !utf8.ValidString(text) {
		return secretValue{}, badField(field, "is not UTF-8; send such bytes in base64 as %s", keyBytesValue)
	}
	if len(text) > r.most {
		return secretValue{}, badField(field, "has %d bytes; a secret has at most %d (%s)", len(text), r.most, r.written)
	}
	return secretValue{text: client.Secret(text)}, nil
}

func (r valueRules) bytesValue(field, text string) (secretValue, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return secretValue{}, badField(field, "is not base64 of the standard alphabet with padding")
	}
	if len(raw) > r.most {
		return secretValue{}, badField(field, "has %d bytes; a secret has at most %d (%s)", len(raw), r.most, r.written)
	}
	if r.textOnly {
		if !utf8.Valid(raw) {
			return secretValue{}, badField(field, "is not base64 of UTF-8, and a secret in Unity Catalog holds a text; store the base64 itself as %s, and let its readers decode it", keyStringValue)
		}
		return secretValue{text: client.Secret(raw)}, nil
	}
	return secretValue{bytes: raw, binary: true}, nil
}

// explainSecrets adds advice to an error of the Secrets API; need is the permission that the call requires. A nil error stays
// nil.
func explainSecrets(err error, scope, need string) error {
	var remote *client.Error
	if !errors.As(err, &remote) {
		return err
	}
	bad, invalid := remote.ErrorCode == "BAD_REQUEST", remote.ErrorCode == "INVALID_PARAMETER_VALUE"
	switch {
	case remote.Kind == client.PermissionDenied && remote.Op == "secrets/scopes/list":
		return fmt.Errorf("the engine's identity may not use the secrets of this workspace; if its credential is limited to API scopes, it needs %q: %w", "secrets", err)
	case remote.Kind == client.PermissionDenied && remote.Op == "secrets/get":
		return fmt.Errorf("the engine's identity needs %s on scope %q; whoever manages the scope can grant it. Where the scope mirrors an Azure Key Vault, Databricks also needs the right to read there: %w", need, scope, err)
	case remote.Kind == client.PermissionDenied:
		return fmt.Errorf("the engine's identity needs %s on scope %q; whoever manages the scope can grant it: %w", need, scope, err)
	case remote.Kind == client.NotFound:
		return fmt.Errorf("there is no scope %q, or nothing of that name in it; write scopes/%s to create the scope: %w", scope, scope, err)
	case remote.Kind == client.QuotaExceeded && remote.Op == "secrets/put":
		return fmt.Errorf("scope %q has as many secrets as a scope can have (%d); delete some, or use another scope: %w", scope, client.MaxSecretsPerScope, err)
	case bad && remote.Op == "secrets/scopes/delete":
		return fmt.Errorf("scope %q could not be deleted and is as it was; it may be one of Databricks' own, else try again: %w", scope, err)
	case bad && remote.Op == "secrets/get":
		return fmt.Errorf("this workspace gives the values of secrets to notebooks and jobs only, not over REST, so they can't be read through Vault; the secret itself is as it was: %w", err)
	case bad && (remote.Op == "secrets/put" || remote.Op == "secrets/delete"):
		return fmt.Errorf("a scope that mirrors an Azure Key Vault is read-only; if scope %q is one, change the secret in the Key Vault: %w", scope, err)
	case invalid && remote.Op == "secrets/put":
		return fmt.Errorf("check the key, and that the value has %d bytes (128 KB) at most: %w", client.MaxSecretValue, err)
	case remote.ErrorCode == "MALFORMED_REQUEST" && remote.Op == "secrets/put":
		return fmt.Errorf("the value could not be read; send the same bytes in base64 as %s: %w", keyBytesValue, err)
	case (invalid || remote.ErrorCode == "MALFORMED_REQUEST") && remote.Op == "secrets/get":
		return fmt.Errorf("if scope %q mirrors an Azure Key Vault, its keys have 1 to 127 letters, digits and dashes; check the key, and the secret in the Key Vault: %w", scope, err)
	case remote.ErrorCode == "RESOURCE_ALREADY_EXISTS" && remote.Op == "secrets/acls/put":
		return fmt.Errorf("the existing permission was not overwritten; delete acls/%s/<principal> first: %w", scope, err)
	case invalid && (remote.Op == "secrets/acls/put" || remote.Op == "secrets/acls/delete"):
		return fmt.Errorf("a principal is the user name of a user, the display name of a group or the application id of a service principal, and must exist: %w", err)
	default:
		return err
	}
}
