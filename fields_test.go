// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"errors"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/errutil"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// TestSecretsOfTheWrongTypeAreNotShown shows that what was sent as a secret is in no error, whatever its type.
func TestSecretsOfTheWrongTypeAreNotShown(t *testing.T) {
	t.Parallel()
	m := ready(t)
	for path, data := range map[string]map[string]any{
		"secrets/etl/k": {"string_value": map[string]any{"password": "Hunter2Secret"}},
		"secrets/etl/l": {"bytes_value": []any{"Hunter2Secret"}},
		"secrets/etl":   {"secrets": "Hunter2Secret"},
		"secrets/ops":   {"secrets": map[string]any{"Hunter2Secret !": "key"}},
		"config":        {"token": map[string]any{"value": "Hunter2Secret"}},
	} {
		resp, err := m.do(logical.UpdateOperation, path, data)
		if mistake := (errutil.UserError{}); errors.As(err, &mistake) {
			resp, err = logical.ErrorResponse(mistake.Err), nil
		}
		m.refused(resp, err)
		require.NotContains(t, resp.Error().Error(), "Hunter2Secret", path)
	}
}

// TestAnEmptyTTLIsNotForGood shows that where a policy demands a ttl, an empty one is refused.
func TestAnEmptyTTLIsNotForGood(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	for _, ttl := range []any{0, "0", "0s", "", nil} {
		resp, err := m.do(logical.UpdateOperation, "acls/etl/users", map[string]any{"permission": "MANAGE", "ttl": ttl})
		m.refused(resp, err, "ttl: ")
		resp, err = m.do(logical.UpdateOperation, "secrets/etl/k", map[string]any{"string_value": "x", "ttl": ttl})
		m.refused(resp, err, "ttl: ")
		resp, err = m.do(logical.UpdateOperation, "creds/etl", map[string]any{"ttl": ttl})
		m.refused(resp, err, "ttl: ")
	}
	require.Empty(t, m.acl("users"))
	require.Empty(t, m.minted())
}

// TestNoFieldShowsASecretOfTheWrongType sends a secret in a form that its field doesn't have, on every path with such a field: the
// framework's own error would repeat it.
func TestNoFieldShowsASecretOfTheWrongType(t *testing.T) {
	t.Parallel()
	m := ready(t)
	b := m.backend.(*backend)
	// The name of a policy is not a secret, but a value that was sent in its place is.
	sensitive := map[string]framework.FieldType{keyPasswordPolicy: framework.TypeString}
	for _, path := range b.Paths {
		for name, schema := range path.Fields {
			if schema.DisplayAttrs != nil && schema.DisplayAttrs.Sensitive {
				sensitive[name] = schema.Type
			}
		}
	}
	require.Contains(t, sensitive, keyToken)
	require.Contains(t, sensitive, keySecrets)
	for field, kind := range sensitive {
		path, found := map[string]string{
			keyToken: "config", keyClientSecret: "config", keyAzureClientSecret: "config",
			keyStringValue: "secrets/etl/k", keyBytesValue: "secrets/etl/k", keyPasswordPolicy: "secrets/etl/k",
			keySecrets: "secrets/etl", keyBytes: "secrets/etl",
		}[field]
		require.True(t, found, "on which path is %s?", field)
		var wrong any = map[string]any{"a": "hunter2hunter2"}
		if kind == framework.TypeMap {
			wrong = "hunter2hunter2"
		}
		resp, err := m.do(logical.UpdateOperation, path, map[string]any{field: wrong})
		m.refused(resp, err, field+": is not a ")
		require.NotContains(t, resp.Error().Error(), "hunter2hunter2", field)
	}
}
