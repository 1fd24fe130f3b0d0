// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// maxSecretSize is the longest value of a secret in bytes, after decoding
// (Databricks REST reference, Secrets API: 128 KB).
const maxSecretSize = 128 << 10

// keyVaultName is what secrets of an Azure Key Vault may be called (Azure Key
// Vault, object identifiers).
var keyVaultName = regexp.MustCompile(`^[0-9A-Za-z-]{1,127}$`)

// PutSecret writes a secret behind everyone's back: no limit, permission, fault
// or log is in the way, and scopes of an Azure Key Vault take it, too, as if it
// had been written to the vault. It panics if the scope doesn't exist.
func (w *Workspace) PutSecret(scope, key string, value []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mustFindScope(scope).put(key, append([]byte{}, value...), &w.settings)
}

// SetSecretReads reports whether secrets/get answers with values, as it does at
// first, or with BAD_REQUEST. Real workspaces do either: the REST reference says
// that values can't be read outside a notebook, the tests of the Databricks CLI
// read them.
func (w *Workspace) SetSecretReads(allowed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.secretReadsRefused = !allowed
}

// put takes value over. An overwritten secret always gets a later timestamp than
// it had, by a millisecond at least, even if the clock stands still.
func (s *secretScope) put(key string, value []byte, how *settings) {
	updated := how.now().UTC().Truncate(time.Millisecond)
	old, overwritten := s.find(key)
	if overwritten && !updated.After(old.Updated) {
		updated = old.Updated.Add(time.Millisecond)
	}
	shown := key
	if overwritten && !how.lastSpelling {
		shown = old.key
	}
	s.secrets[strings.ToLower(key)] = keyedSecret{shown, Secret{Value: value, Updated: updated}}
}

// find looks for a secret by its key, in any spelling.
func (s *secretScope) find(key string) (keyedSecret, bool) {
	found, exists := s.secrets[strings.ToLower(key)]
	return found, exists
}

// putSecret creates or overwrites a secret. Whether a value was sent is a matter
// of the member's presence, so that an empty one counts. The status of
// RESOURCE_LIMIT_EXCEEDED is not known: it is sent with 400.
func (w *Workspace) putSecret(r *request) (any, *refusal) {
	var body struct {
		Scope       string  `json:"scope"`
		Key         string  `json:"key"`
		StringValue *string `json:"string_value"`
		BytesValue  *string `json:"bytes_value"`
	}
	if refused := r.decode(&body); refused != nil {
		return nil, refused
	}
	if (body.StringValue == nil) == (body.BytesValue == nil) {
		return nil, refuse(http.StatusBadRequest, "MALFORMED_REQUEST", "Exactly one of string_value and bytes_value must be specified.")
	}
	if !secretKey.MatchString(body.Key) {
		return nil, invalidName("secret key", body.Key)
	}
	var value []byte
	if body.StringValue != nil {
		value = []byte(*body.StringValue)
	} else {
		var err error
		if value, err = base64.StdEncoding.DecodeString(*body.BytesValue); err != nil {
			return nil, refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "bytes_value is not valid base64.")
		}
	}
	if len(value) > maxSecretSize {
		return nil, refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE",
			fmt.Sprintf("The secret value has %d bytes, more than the maximum of %d bytes.", len(value), maxSecretSize))
	}

	w.mu.Lock()
	defer w.mu.Unlock()
	s, refused := w.openWritableScope(r, body.Scope)
	if refused != nil {
		return nil, refused
	}
	if _, exists := s.find(body.Key); !exists && len(s.secrets) >= w.settings.secretLimit {
		return nil, refuse(http.StatusBadRequest, "RESOURCE_LIMIT_EXCEEDED",
			fmt.Sprintf("The limit of %d secrets in scope %s has been reached.", w.settings.secretLimit, body.Scope))
	}
	s.put(body.Key, value, &w.settings)
	return nil, nil
}

// openWritableScope finds a scope whose secrets the caller may change, which are
// never those of an Azure Key Vault. The caller holds the mutex.
func (w *Workspace) openWritableScope(r *request, name string) (*secretScope, *refusal) {
	s, refused := w.openScope(r, name, permissionWrite)
	if refused == nil && s.keyVault != nil {
		return nil, refuse(http.StatusBadRequest, "BAD_REQUEST",
			fmt.Sprintf("Scope %s is backed by Azure KeyVault, whose secrets are read-only here.", name))
	}
	return s, refused
}

func (w *Workspace) deleteSecret(r *request) (any, *refusal) {
	var body struct {
		Scope string `json:"scope"`
		Key   string `json:"key"`
	}
	if refused := r.decode(&body); refused != nil {
		return nil, refused
	}
	if body.Key == "" {
		return nil, missingField("key")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s, refused := w.openWritableScope(r, body.Scope)
	if refused != nil {
		return nil, refused
	}
	if _, exists := s.find(body.Key); !exists {
		return nil, noSecret(body.Scope, body.Key)
	}
	delete(s.secrets, strings.ToLower(body.Key))
	return nil, nil
}

func noSecret(scope, key string) *refusal {
	return refuse(http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST",
		fmt.Sprintf("Secret does not exist with scope: %s and key: %s", scope, key))
}

// getSecret answers with the stored bytes in base64, however they were put, and
// with the key as it is listed; the real spelling is unknown.
// While reads are refused, the caller's permission is checked first, and the key
// isn't looked at; the real order and text are unknown.
func (w *Workspace) getSecret(r *request) (any, *refusal) {
	query := r.URL.Query()
	scope, key := query.Get("scope"), query.Get("key")
	if key == "" {
		return nil, missingField("key")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s, refused := w.openScope(r, scope, permissionRead)
	if refused != nil {
		return nil, refused
	}
	if w.secretReadsRefused {
		return nil, refuse(http.StatusBadRequest, "BAD_REQUEST",
			"Secret values can only be read through DBUtils from within a notebook or a job.")
	}
	if s.keyVault != nil && !keyVaultName.MatchString(key) {
		return nil, refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE",
			fmt.Sprintf("Invalid secret key %q: secrets in Azure KeyVault have names of 1 to 127 alphanumeric characters and dashes.", key))
	}
	secret, exists := s.find(key)
	if !exists {
		return nil, noSecret(scope, key)
	}
	return map[string]any{"key": secret.key, "value": secret.Value}, nil
}

// listSecrets lists the keys in order, without regard to case. The real order is
// unknown.
func (w *Workspace) listSecrets(r *request) (any, *refusal) {
	type metadata struct {
		Key                  string `json:"key"`
		LastUpdatedTimestamp int64  `json:"last_updated_timestamp"` // epoch milliseconds
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s, refused := w.openScope(r, r.URL.Query().Get("scope"), permissionRead)
	if refused != nil {
		return nil, refused
	}
	list := make([]metadata, 0, len(s.secrets))
	for _, key := range slices.Sorted(maps.Keys(s.secrets)) {
		secret := s.secrets[key]
		list = append(list, metadata{secret.key, secret.Updated.UnixMilli()})
	}
	return listOf("secrets", list), nil
}
