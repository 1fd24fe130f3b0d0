// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
	"vault-plugin-secrets-databricks/internal/client"

	"github.com/hashicorp/vault/sdk/framework"
)

// secretRef is where a secret is.
type secretRef struct {
	Scope string `json:"scope"`
	Key   string `json:"key"`
}

func (p secretRef) String() string { return p.Scope + "/" + p.Key }

// canonical is the same for all spellings of a place: names of scopes and keys ignore case (Databricks guide "Secret
// management").
func (p secretRef) canonical() string { return strings.ToLower(p.String()) }

func secretRefOf(data *framework.FieldData) (secretRef, error) {
	ref := secretRef{Scope: data.Get(keyScope).(string), Key: data.Get(keyKey).(string)}
	return ref, ref.check(keyScope, keyKey)
}

// check refuses names that no scope and no key can have, by the names of their fields.
func (p secretRef) check(scopeField, keyField string) error {
	if err := checkName(scopeField, p.Scope); err != nil {
		return err
	}
	return checkName(keyField, p.Key)
}

// secretUpdated returns when the secret was last written, and the zero time when it or its scope does not exist.
func secretUpdated(ctx context.Context, conn *connection, ref secretRef) (time.Time, error) {
	secrets, err := conn.client.ListSecrets(ctx, ref.Scope)
	if client.IsGone(err) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	var updated time.Time
	for _, secret := range secrets {
		if secret.Key == ref.Key {
			return secret.Updated, nil
		}
		if strings.EqualFold(secret.Key, ref.Key) {
			updated = secret.Updated
		}
	}
	return updated, nil
}

// secretValue is a value on its way to Databricks.
type secretValue struct {
	text   client.Secret
	bytes  []byte // used when binary
	binary bool
}

func (v secretValue) put(ctx context.Context, conn *connection, ref secretRef) error {
	var err error
	if v.binary {
		err = conn.client.PutSecretBytes(ctx, ref.Scope, ref.Key, v.bytes)
	} else {
		err = conn.client.PutSecretString(ctx, ref.Scope, ref.Key, v.text)
	}
	return explainSecrets(err, ref.Scope, permissionWrite)
}

// valueOf reads and checks the value of a request, or makes one.
func (b *backend) valueOf(ctx context.Context, data *framework.FieldData) (secretValue, error) {
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
		return bytesValue(keyBytesValue, text)
	case keyPasswordPolicy:
		made, err := b.System().GeneratePasswordFromPolicy(ctx, text)
		if err != nil {
			return secretValue{}, badField(keyPasswordPolicy, "Vault can't make a value by the policy %q: %s; see sys/policies/password", text, err)
		}
		text = made
	}
	return stringValue(sent[0], text)
}

func stringValue(field, text string) (secretValue, error) {
	if !utf8.ValidString(text) {
		return secretValue{}, badField(field, "is not UTF-8; send such bytes in base64 as %s", keyBytesValue)
	}
	if len(text) > client.MaxSecretValue {
		return secretValue{}, badField(field, "has %d bytes; a secret has at most %d (128 KB)", len(text), client.MaxSecretValue)
	}
	return secretValue{text: client.Secret(text)}, nil
}

func bytesValue(field, text string) (secretValue, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return secretValue{}, badField(field, "is not base64 of the standard alphabet with padding")
	}
	if len(raw) > client.MaxSecretValue {
		return secretValue{}, badField(field, "has %d bytes; a secret has at most %d (128 KB)", len(raw), client.MaxSecretValue)
	}
	return secretValue{bytes: raw, binary: true}, nil
}

// explainSecrets adds to an error of the Secrets API what to do about it; need is the permission that the call takes. The
// nil error stays nil.
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
		return fmt.Errorf("the permission that is there was not overwritten; delete acls/%s/<principal> first: %w", scope, err)
	case invalid && (remote.Op == "secrets/acls/put" || remote.Op == "secrets/acls/delete"):
		return fmt.Errorf("a principal is the user name of a user, the display name of a group or the application id of a service principal, and must exist: %w", err)
	default:
		return err
	}
}
