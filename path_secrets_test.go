// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/simulator"
)

// allBytes has every byte value, and is no UTF-8.
func allBytes() []byte {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	return all
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	where := map[string]any{"scope": "etl", "key": "api-key"}
	resp := m.write("secrets/etl/api-key", map[string]any{"string_value": "canary-of-etl"})
	require.Equal(t, where, resp.Data)
	require.Nil(t, resp.Secret)
	stored := m.scope("etl").Secrets["api-key"]
	require.Equal(t, "canary-of-etl", string(stored.Value))
	require.Equal(t, map[string]any{
		"scope": "etl", "key": "api-key", "string_value": "canary-of-etl", "bytes_value": base64.StdEncoding.EncodeToString([]byte("canary-of-etl")),
		"last_updated_timestamp": rfc3339(stored.Updated), "last_updated_time": rfc3339(stored.Updated),
	}, m.read("secrets/etl/api-key").Data)
	require.Equal(t, where, m.write("secrets/etl/api-key", map[string]any{"string_value": "canary-second"}).Data)
	require.Equal(t, "canary-second", string(m.scope("etl").Secrets["api-key"].Value))

	m.workspace.PutSecret("etl", "a", nil)
	resp, err := m.do(logical.ListOperation, "secrets/etl/", nil)
	m.requireOK(resp, err)
	require.Equal(t, []string{"a", "api-key"}, resp.Data["keys"])
	info := resp.Data["key_info"].(map[string]any)["api-key"]
	updated := rfc3339(m.scope("etl").Secrets["api-key"].Updated)
	require.Equal(t, map[string]any{"last_updated_timestamp": updated, "last_updated_time": updated}, info)

	for range 2 {
		resp, err := m.do(logical.DeleteOperation, "secrets/etl/api-key", nil)
		m.requireOK(resp, err)
	}
	require.NotContains(t, m.scope("etl").Secrets, "api-key")
	require.Nil(t, m.read("secrets/etl/api-key"))
	for path, op := range map[string]logical.Operation{"secrets/nowhere": logical.ListOperation, "secrets/nowhere/k": logical.ReadOperation} {
		resp, err := m.do(op, path, nil)
		m.requireOK(resp, err)
		require.Nil(t, resp, "absent is Vault's 404")
	}
	require.Empty(t, m.walEntries())
}

func TestSecretValues(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	full := strings.Repeat("0123456789abcdef", client.MaxSecretValue/16)
	for name, value := range map[string]string{
		"empty": "", "one byte": "x", "a zero byte": "\x00", "unicode": "schlüssel 研究 🚀", "lines": "a\r\nb\n", "spaces": "  canary with space  ",
		"json": `{"string_value":"canary"}`, "quotes": `canary"\u0041\`, "html": "<canary>&amp;", "all bytes": string(allBytes()), "cut unicode": "canary\xf0\x9f",
		"full": full, "full of bytes": strings.Repeat("\xff", client.MaxSecretValue),
	} {
		t.Run(name, func(t *testing.T) {
			encoded := base64.StdEncoding.EncodeToString([]byte(value))
			m.write("secrets/etl/k", map[string]any{"bytes_value": encoded})
			require.Equal(t, value, string(m.scope("etl").Secrets["k"].Value))
			read := m.read("secrets/etl/k").Data
			require.Equal(t, encoded, read["bytes_value"])
			if strings.ToValidUTF8(value, "") != value {
				require.NotContains(t, read, "string_value")
				resp, err := m.do(logical.UpdateOperation, "secrets/etl/k", map[string]any{"string_value": value})
				m.refused(resp, err, "string_value: ", "U+FFFD", "bytes_value")
				return
			}
			require.Equal(t, value, read["string_value"])
			m.workspace.PutSecret("etl", "k", []byte("something else"))
			m.write("secrets/etl/k", map[string]any{"string_value": value})
			require.Equal(t, value, m.read("secrets/etl/k").Data["string_value"])
		})
	}

	t.Run("wrapped base64", func(t *testing.T) {
		encoded := base64.StdEncoding.EncodeToString(allBytes())
		m.write("secrets/etl/k", map[string]any{"bytes_value": encoded[:76] + "\r\n" + encoded[76:] + "\n"})
		require.Equal(t, allBytes(), m.scope("etl").Secrets["k"].Value)
	})

	t.Run("too long", func(t *testing.T) {
		m.workspace.ResetCalls()
		for field, value := range map[string]string{
			"string_value": full + "x", "bytes_value": base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0}, client.MaxSecretValue+1)),
		} {
			resp, err := m.do(logical.UpdateOperation, "secrets/etl/k", map[string]any{field: value})
			m.refused(resp, err, field+": has 131073 bytes", "131072", "128 KB")
		}
		// As many characters, but more bytes.
		resp, err := m.do(logical.UpdateOperation, "secrets/etl/k", map[string]any{"string_value": strings.Repeat("é", client.MaxSecretValue/2+1)})
		m.refused(resp, err, "has 131074 bytes")
		require.Zero(t, m.workspace.Count("", secretPutPath))
	})
}

func TestSecretsRefuseBadInput(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.system.PasswordPolicies = map[string]logical.PasswordGenerator{
		"strong": func() (string, error) { return "generated-canary", nil },
		"broken": func() (string, error) { return "", errors.New("no charset") },
		"long":   func() (string, error) { return strings.Repeat("x", client.MaxSecretValue+1), nil },
	}
	const one = "exactly one of string_value, bytes_value and password_policy"
	for name, row := range map[string]struct {
		data  map[string]any
		words []string
	}{
		"nothing":            {nil, []string{"string_value: is missing", one}},
		"null":               {map[string]any{"string_value": nil}, []string{"string_value: is missing", one}},
		"text and bytes":     {map[string]any{"string_value": "canary-1", "bytes_value": "Y2FuYXJ5LTI="}, []string{"bytes_value: can't be sent together with string_value", one}},
		"text and policy":    {map[string]any{"string_value": "canary-1", "password_policy": "strong"}, []string{"password_policy: can't be sent together", one}},
		"bytes and policy":   {map[string]any{"bytes_value": "Y2FuYXJ5LTI=", "password_policy": "strong"}, []string{"password_policy: can't be sent together", one}},
		"all":                {map[string]any{"string_value": "", "bytes_value": "", "password_policy": ""}, []string{"bytes_value: can't be sent", one}},
		"no base64":          {map[string]any{"bytes_value": "canary of no base64!"}, []string{"bytes_value: is not base64"}},
		"base64url":          {map[string]any{"bytes_value": "__-_canary-_-_=="}, []string{"bytes_value: is not base64"}},
		"unpadded":           {map[string]any{"bytes_value": "Y2FuYXJ5LTI"}, []string{"bytes_value: is not base64"}},
		"unknown policy":     {map[string]any{"password_policy": "nobody"}, []string{"password_policy: ", `"nobody"`, "sys/policies/password"}},
		"broken policy":      {map[string]any{"password_policy": "broken"}, []string{"password_policy: ", "no charset"}},
		"policy of giants":   {map[string]any{"password_policy": "long"}, []string{"password_policy: has 131073 bytes"}},
		"a map":              {map[string]any{"string_value": map[string]any{"a": "canary-in-a-map"}}, []string{"string_value"}},
		"a list":             {map[string]any{"string_value": []any{"canary-in-a-list", 2}}, []string{"string_value"}},
		"bytes in a map":     {map[string]any{"bytes_value": map[string]any{"a": "canary-in-a-map"}}, []string{"bytes_value"}},
		"ttl in words":       {map[string]any{"string_value": "canary-1", "ttl": "long"}, []string{"ttl: "}},
		"less than a second": {map[string]any{"string_value": "canary-1", "ttl": "500ms"}, []string{"ttl: ", "whole number of seconds"}},
		"negative ttl":       {map[string]any{"string_value": "canary-1", "ttl": "-1h"}, []string{"ttl: "}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, value := range row.data {
				if nested, ok := value.(map[string]any); ok {
					m.canaries.add(nested["a"])
				}
				if nested, ok := value.([]any); ok {
					m.canaries.add(nested...)
				}
			}
			resp, err := m.do(logical.UpdateOperation, "secrets/etl/k", row.data)
			got := m.failure(resp, err)
			for _, word := range row.words {
				require.ErrorContains(t, got, word)
			}
			require.Zero(t, m.workspace.Count("", secretPutPath))
		})
	}

	resp := m.write("secrets/etl/made", map[string]any{"password_policy": "strong"})
	require.Equal(t, map[string]any{"scope": "etl", "key": "made"}, resp.Data, "nobody gets to see it")
	require.Equal(t, "generated-canary", string(m.scope("etl").Secrets["made"].Value))
}

// TestExistenceChecksCallNobody: Vault makes them before it looks at policies.
func TestExistenceChecksCallNobody(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.PutSecret("etl", "there", nil)
	checked := 0
	check := func(m *mount, path string) {
		t.Helper()
		found, exists, err := m.backend.HandleExistenceCheck(t.Context(), &logical.Request{
			Operation: logical.CreateOperation, Path: path, Storage: m.storage, Data: map[string]any{"string_value": "v", "permission": "READ"},
		})
		require.NoError(t, err)
		require.True(t, !found || exists, "%s: update is the capability that a policy gives", path)
		checked++
	}
	paths := []string{
		"secrets/etl/there", "secrets/etl/other", "secrets/other/k", "secrets/etl/bad name", "scopes/etl", "scopes/other", "scopes/bad name", "scopes/a/b",
		"acls/etl/users", "acls/etl/nobody", "acls/other/users", "acls/bad name/users", "secrets/etl", "secrets/a/b/c", "roles/a..b", "creds/a..b", "uc-secrets/main/app/k", "uc-secrets/main/app", "uc-secrets/ma.in/app/k",
	}
	for _, path := range paths {
		check(m, path)
	}
	bare := newMount(t)
	bare.storage.onEach(func(string, string) error { return errors.New("disk full") })
	for _, path := range paths {
		check(bare, path)
	}
	require.Equal(t, 2*len(paths), checked)
	require.Empty(t, m.workspace.Calls())

	// The rest of the paths is checked, too, so that a new one can't be forgotten.
	for _, path := range m.routes.Paths {
		if path.ExistenceCheck == nil {
			continue
		}
		check := &logical.Request{Operation: logical.CreateOperation, Storage: m.storage}
		for _, name := range []string{"config", "roles/new", "static-roles/new", "scopes/new", "secrets/new/k", "acls/new/p", "uc-secrets/c/s/new"} {
			if m.routes.Route(name) == path {
				check.Path = name
			}
		}
		require.NotEmpty(t, check.Path, "a path with an existence check that this test does not know: %s", path.Pattern)
		_, _, err := m.backend.HandleExistenceCheck(t.Context(), check)
		require.NoError(t, err)
	}
	require.Empty(t, m.workspace.Calls())
}

func TestAPlainWriteOfASecretIsOneCall(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	for range 2 {
		m.workspace.ResetCalls()
		m.write("secrets/etl/k", map[string]any{"string_value": "canary-value", "if_absent": false})
		require.Equal(t, []string{"POST " + secretPutPath}, m.requests())
	}
	m.workspace.ResetCalls()
	m.write("secrets/etl/new", map[string]any{"string_value": "canary-value", "if_absent": true})
	require.Equal(t, []string{"GET " + secretListPath, "POST " + secretPutPath}, m.requests())
	m.workspace.ResetCalls()
	m.write("secrets/etl/leased", map[string]any{"string_value": "canary-value", "if_absent": true, "ttl": "1h"})
	require.Equal(t, []string{"GET " + secretListPath, "POST " + secretPutPath, "GET " + secretListPath}, m.requests(), "a lease looks before and after it anyway")
}

func TestIfAbsentRefusesToOverwrite(t *testing.T) {
	t.Parallel()
	for name, ttl := range map[string]string{"for good": "", "leased": "1h"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := withScope(t)
			m.impatient()
			add := func(path string) (*logical.Response, error) {
				data := map[string]any{"string_value": "canary-added", "if_absent": true}
				if ttl != "" {
					data["ttl"] = ttl
				}
				return m.do(logical.UpdateOperation, path, data)
			}
			m.workspace.PutSecret("etl", "Api-Key", []byte("before"))
			m.workspace.ResetCalls()
			for _, path := range []string{"secrets/etl/Api-Key", "secrets/etl/api-key", "secrets/ETL/API-KEY"} {
				resp, err := add(path)
				m.refused(resp, err, "if_absent: secret ", "already exists (last written ", "not overwritten")
			}
			require.Zero(t, m.workspace.Count("", secretPutPath))
			require.Empty(t, m.walEntries())
			value, _ := m.has("Api-Key")
			require.Equal(t, "before", value)

			// Where Databricks doesn't say whether there is one, there might be one.
			for _, fault := range []simulator.Fault{{Status: 500}, {Reset: true}, {Status: 403, ErrorCode: "PERMISSION_DENIED"}, {HTML: true}} {
				fault.Path = secretListPath
				m.workspace.Inject(fault)
				m.failure(add("secrets/etl/new"))
				m.workspace.ClearFaults()
			}
			m.workspace.Inject(simulator.Fault{Path: secretListPath, Body: `{"secrets": [{"key": "NEW"}]}`, Times: 1})
			resp, err := add("secrets/etl/new")
			m.refused(resp, err, "if_absent: secret etl/new already exists and was not overwritten")
			require.Zero(t, m.workspace.Count("", secretPutPath))
			resp, err = add("secrets/nowhere/new")
			m.refused(resp, err, `there is no scope "nowhere"`)

			resp, err = add("secrets/etl/new")
			m.requireOK(resp, err)
			require.Equal(t, ttl != "", resp.Secret != nil)
			value, _ = m.has("new")
			require.Equal(t, "canary-added", value)
			resp, err = add("secrets/etl/new")
			m.refused(resp, err, "if_absent: ")
			m.gone("secrets/etl/new")
			resp, err = add("secrets/etl/new")
			m.requireOK(resp, err)
		})
	}
}

// TestIfAbsentIsTrueOrFalse: Vault lets an empty text or list pass where a policy allows nothing but true, and the framework would take
// both for false.
func TestIfAbsentIsTrueOrFalse(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.PutSecret("etl", "k", []byte("before"))
	m.workspace.ResetCalls()
	for _, value := range []any{"", " ", ",", []any{}, []any{true}, []any{"true"}, map[string]any{}, 0, 1, 1.5, "yes", " true", "true,true"} {
		resp, err := m.do(logical.UpdateOperation, "secrets/etl/k", map[string]any{"string_value": "canary-over", "if_absent": value})
		require.ErrorContains(t, m.failure(resp, err), "if_absent", "%#v", value)
	}
	require.Empty(t, m.workspace.Calls())
	for _, value := range []any{"true", true} {
		resp, err := m.do(logical.UpdateOperation, "secrets/etl/k", map[string]any{"string_value": "canary-over", "if_absent": value})
		m.refused(resp, err, "if_absent: secret etl/k already exists")
	}
	for _, value := range []any{"false", false} {
		m.write("secrets/etl/k", map[string]any{"string_value": "canary-over", "if_absent": value})
	}
}

// TestIfAbsentLetsOneOfManyIn: the lookup and the write are one step for the requests of a mount, in every spelling of the key.
func TestIfAbsentLetsOneOfManyIn(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	outcomes := make(chan error, 16)
	for n := range cap(outcomes) {
		go func() {
			path, data := "secrets/etl/once", map[string]any{"string_value": fmt.Sprintf("canary-of-%04d", n), "if_absent": true}
			if n%2 == 1 {
				path, data["ttl"] = "secrets/ETL/ONCE", "1h"
			}
			resp, err := m.do(logical.UpdateOperation, path, data)
			if err == nil {
				err = resp.Error()
			}
			outcomes <- err
		}()
	}
	written := 0
	for range cap(outcomes) {
		if err := <-outcomes; err == nil {
			written++
		} else {
			require.ErrorContains(t, err, "if_absent: ")
		}
	}
	require.Equal(t, 1, written)
	require.Equal(t, 1, m.workspace.Count("", secretPutPath))
}

// TestSecretKeysIgnoreCase holds against a workspace that keeps the spelling of whoever wrote a key first, and against a list with both.
func TestSecretKeysIgnoreCase(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.PutSecret("etl", "Token", []byte("v"))
	conn, err := m.backend.(*backend).connection(t.Context(), m.storage)
	require.NoError(t, err)
	for key, exists := range map[string]bool{"Token": true, "TOKEN": true, "token": true, "tokens": false} {
		seen, err := lookAt(t.Context(), conn, secretRef{Scope: "Etl", Key: key})
		require.NoError(t, err)
		require.Equal(t, exists, seen != nil && seen.updated.Equal(m.scope("etl").Secrets["Token"].Updated), key)
	}
	m.workspace.Inject(simulator.Fault{Path: secretListPath, Body: `{"secrets": [{"key": "token", "last_updated_timestamp": 1}, {"key": "Token", "last_updated_timestamp": 2}]}`})
	seen, err := lookAt(t.Context(), conn, secretRef{Scope: "etl", Key: "token"})
	require.NoError(t, err)
	require.Equal(t, int64(1), seen.updated.UnixMilli(), "the exact spelling goes first")
}

// TestSecretsErrorCodes provokes every error code that the Secrets API documents for a method, and reads what the user is told.
func TestSecretsErrorCodes(t *testing.T) {
	t.Parallel()
	type row struct {
		opts  []simulator.Option
		setup func(m *mount)
		op    logical.Operation
		path  string
		data  map[string]any
		words []string
	}
	value := map[string]any{"string_value": "canary-value"}
	read := map[string]any{"permission": "READ"}
	keyVaultScope := func(m *mount) { m.write("scopes/kv", keyvault()) }
	nobody := func(m *mount) { m.reconnectAs("weak@example.com") }
	inject := func(path string, status int, code string) func(*mount) {
		return func(m *mount) {
			m.workspace.Inject(simulator.Fault{Path: path, Status: status, ErrorCode: code, Message: "the message of Databricks"})
		}
	}
	const write, remove, list, get = logical.UpdateOperation, logical.DeleteOperation, logical.ListOperation, logical.ReadOperation
	needs := func(permission string) []string {
		return []string{"PERMISSION_DENIED", "needs " + permission + ` on scope "etl"`, "whoever manages the scope can grant it"}
	}

	for name, r := range map[string]row{
		"createScope RESOURCE_ALREADY_EXISTS":                    {nil, inject(scopeCreatePath, 400, "RESOURCE_ALREADY_EXISTS"), write, "scopes/new", nil, []string{"RESOURCE_ALREADY_EXISTS"}},
		"createScope RESOURCE_LIMIT_EXCEEDED":                    {[]simulator.Option{simulator.WithScopeLimit(1)}, nil, write, "scopes/new", nil, []string{"RESOURCE_LIMIT_EXCEEDED", "no room for another scope", "delete one"}},
		"createScope INVALID_PARAMETER_VALUE":                    {nil, inject(scopeCreatePath, 400, "INVALID_PARAMETER_VALUE"), write, "scopes/new", nil, []string{"INVALID_PARAMETER_VALUE", "check the name of the scope"}},
		"createScope INVALID_PARAMETER_VALUE, Key Vault and PAT": {nil, nil, write, "scopes/new", keyvault(), []string{"userAADToken", "only an Entra ID identity", "not a personal access token"}},
		"createScope BAD_REQUEST, not Premium":                   {[]simulator.Option{simulator.WithoutPremium()}, nil, write, "scopes/new", nil, []string{"Premium", "initial_manage_principal=users"}},
		"createScope BAD_REQUEST, Key Vault":                     {nil, inject(scopeCreatePath, 400, "BAD_REQUEST"), write, "scopes/new", keyvault(), []string{"BAD_REQUEST", "check keyvault_resource_id and keyvault_dns_name"}},
		"createScope BAD_REQUEST, else":                          {nil, inject(scopeCreatePath, 400, "BAD_REQUEST"), write, "scopes/new", nil, []string{"BAD_REQUEST", "the message of Databricks"}},
		"createScope CUSTOMER_UNAUTHORIZED":                      {nil, nil, write, "scopes/databricks-reserved-x", nil, []string{"CUSTOMER_UNAUTHORIZED", "reserved by Databricks", "choose another"}},
		"createScope UNAUTHENTICATED, Key Vault":                 {nil, inject(scopeCreatePath, 401, "UNAUTHENTICATED"), write, "scopes/new", keyvault(), []string{"UNAUTHENTICATED", "only an Entra ID identity"}},
		"createScope PERMISSION_DENIED":                          {nil, inject(scopeCreatePath, 403, "PERMISSION_DENIED"), write, "scopes/new", nil, []string{"PERMISSION_DENIED", "may not create secret scopes", "workspace admin"}},

		"deleteScope RESOURCE_DOES_NOT_EXIST": {nil, nil, remove, "scopes/nowhere", nil, nil},
		"deleteScope BAD_REQUEST": {nil, func(m *mount) { m.workspace.AddScope("databricks-reserved-x", m.admin) }, remove, "scopes/databricks-reserved-x", nil,
			[]string{"BAD_REQUEST", "could not be deleted and is as it was", "try again"}},
		"deleteScope PERMISSION_DENIED": {nil, nobody, remove, "scopes/etl", nil, needs("MANAGE")},

		"listScopes PERMISSION_DENIED":       {nil, inject(scopeListPath, 403, "PERMISSION_DENIED"), list, "scopes/", nil, []string{"PERMISSION_DENIED", "may not use the secrets of this workspace", `"secrets"`}},
		"listScopes PERMISSION_DENIED, read": {nil, inject(scopeListPath, 403, "PERMISSION_DENIED"), get, "scopes/etl", nil, []string{"PERMISSION_DENIED", "may not use the secrets of this workspace"}},

		"putSecret RESOURCE_DOES_NOT_EXIST":        {nil, nil, write, "secrets/nowhere/k", value, []string{"RESOURCE_DOES_NOT_EXIST", `there is no scope "nowhere"`, "write scopes/nowhere"}},
		"putSecret RESOURCE_DOES_NOT_EXIST, bulk":  {nil, nil, write, "secrets/nowhere", map[string]any{"secrets": map[string]any{"k": "canary-value"}}, []string{"RESOURCE_DOES_NOT_EXIST", "write scopes/nowhere"}},
		"putSecret RESOURCE_DOES_NOT_EXIST, lease": {nil, nil, write, "secrets/nowhere/k", map[string]any{"string_value": "canary-value", "ttl": "1h"}, []string{"RESOURCE_DOES_NOT_EXIST", "write scopes/nowhere"}},
		"putSecret RESOURCE_LIMIT_EXCEEDED": {[]simulator.Option{simulator.WithSecretLimit(1)}, func(m *mount) { m.workspace.PutSecret("etl", "first", nil) }, write, "secrets/etl/second", value,
			[]string{"RESOURCE_LIMIT_EXCEEDED", "as many secrets as a scope can have (1000)", "delete some"}},
		"putSecret INVALID_PARAMETER_VALUE": {nil, inject(secretPutPath, 400, "INVALID_PARAMETER_VALUE"), write, "secrets/etl/k", value, []string{"INVALID_PARAMETER_VALUE", "check the key", "128 KB"}},
		"putSecret MALFORMED_REQUEST":       {nil, inject(secretPutPath, 400, "MALFORMED_REQUEST"), write, "secrets/etl/k", value, []string{"MALFORMED_REQUEST", "in base64 as bytes_value"}},
		"putSecret BAD_REQUEST":             {[]simulator.Option{simulator.WithAzureKeyVault()}, keyVaultScope, write, "secrets/kv/k", value, []string{"BAD_REQUEST", "read-only", "change the secret in the Key Vault"}},
		"putSecret PERMISSION_DENIED":       {nil, nobody, write, "secrets/etl/k", value, needs("WRITE")},

		"deleteSecret RESOURCE_DOES_NOT_EXIST, key":   {nil, nil, remove, "secrets/etl/nothing", nil, nil},
		"deleteSecret RESOURCE_DOES_NOT_EXIST, scope": {nil, nil, remove, "secrets/nowhere/nothing", nil, nil},
		"deleteSecret BAD_REQUEST":                    {[]simulator.Option{simulator.WithAzureKeyVault()}, keyVaultScope, remove, "secrets/kv/k", nil, []string{"BAD_REQUEST", "read-only", "change the secret in the Key Vault"}},
		"deleteSecret PERMISSION_DENIED":              {nil, nobody, remove, "secrets/etl/k", nil, needs("WRITE")},

		"getSecret RESOURCE_DOES_NOT_EXIST": {nil, nil, get, "secrets/etl/nothing", nil, nil},
		"getSecret BAD_REQUEST": {nil, func(m *mount) { m.workspace.PutSecret("etl", "k", []byte("v")); m.workspace.SetSecretReads(false) }, get, "secrets/etl/k", nil,
			[]string{"BAD_REQUEST", "gives the values of secrets to notebooks and jobs only, not over REST", "the secret itself is as it was"}},
		"getSecret INVALID_PARAMETER_VALUE": {[]simulator.Option{simulator.WithAzureKeyVault()}, keyVaultScope, get, "secrets/kv/under_score", nil, []string{"INVALID_PARAMETER_VALUE", "1 to 127 letters, digits and dashes"}},
		"getSecret MALFORMED_REQUEST":       {nil, inject(secretGetPath, 400, "MALFORMED_REQUEST"), get, "secrets/etl/k", nil, []string{"MALFORMED_REQUEST", "check the key, and the secret in the Key Vault"}},
		"getSecret PERMISSION_DENIED":       {nil, nobody, get, "secrets/etl/k", nil, append(needs("READ"), "Key Vault")},
		"getSecret, and list is refused": {nil, func(m *mount) {
			m.workspace.PutSecret("etl", "k", []byte("v"))
			inject(secretListPath, 403, "PERMISSION_DENIED")(m)
		}, get, "secrets/etl/k", nil, needs("READ")},

		"listSecrets RESOURCE_DOES_NOT_EXIST":           {nil, nil, list, "secrets/nowhere", nil, nil},
		"listSecrets RESOURCE_DOES_NOT_EXIST, dry run":  {nil, nil, write, "secrets/nowhere", map[string]any{"secrets": map[string]any{"k": "canary-value"}, "dry_run": true}, []string{"RESOURCE_DOES_NOT_EXIST", "write scopes/nowhere"}},
		"listSecrets PERMISSION_DENIED":                 {nil, nobody, list, "secrets/etl", nil, needs("READ")},
		"listSecrets PERMISSION_DENIED, leased":         {nil, nobody, write, "secrets/etl/k", map[string]any{"string_value": "canary-value", "ttl": "1h"}, needs("READ")},
		"listSecrets PERMISSION_DENIED, for a delivery": {nil, nobody, write, "creds/etl", map[string]any{"deliver_scope": "etl", "deliver_key": "k"}, needs("READ")},

		"putAcl RESOURCE_DOES_NOT_EXIST": {nil, nil, write, "acls/nowhere/users", read, []string{"RESOURCE_DOES_NOT_EXIST", `there is no scope "nowhere"`, "write scopes/nowhere"}},
		"putAcl INVALID_PARAMETER_VALUE": {nil, nil, write, "acls/etl/nobody", read, []string{"INVALID_PARAMETER_VALUE", "a principal is the user name", "must exist"}},
		"putAcl RESOURCE_ALREADY_EXISTS": {nil, inject(aclPutPath, 400, "RESOURCE_ALREADY_EXISTS"), write, "acls/etl/users", read, []string{"RESOURCE_ALREADY_EXISTS", "delete acls/etl/<principal> first"}},
		"putAcl PERMISSION_DENIED":       {nil, nobody, write, "acls/etl/users", read, needs("MANAGE")},

		"deleteAcl RESOURCE_DOES_NOT_EXIST":            {nil, nil, remove, "acls/etl/users", nil, nil},
		"deleteAcl RESOURCE_DOES_NOT_EXIST, principal": {nil, nil, remove, "acls/etl/nobody", nil, nil},
		"deleteAcl RESOURCE_DOES_NOT_EXIST, scope":     {nil, nil, remove, "acls/nowhere/users", nil, nil},
		"deleteAcl INVALID_PARAMETER_VALUE":            {nil, inject(aclDeletePath, 400, "INVALID_PARAMETER_VALUE"), remove, "acls/etl/users", nil, []string{"INVALID_PARAMETER_VALUE", "a principal is the user name"}},
		"deleteAcl PERMISSION_DENIED":                  {nil, nobody, remove, "acls/etl/users", nil, needs("MANAGE")},

		"getAcl RESOURCE_DOES_NOT_EXIST":   {nil, nil, get, "acls/etl/users", nil, nil},
		"getAcl PERMISSION_DENIED":         {nil, nobody, get, "acls/etl/users", nil, needs("MANAGE")},
		"listAcls RESOURCE_DOES_NOT_EXIST": {nil, nil, list, "acls/nowhere", nil, nil},
		"listAcls PERMISSION_DENIED":       {nil, nobody, list, "acls/etl", nil, needs("MANAGE")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := withScope(t, r.opts...)
			if r.setup != nil {
				r.setup(m)
			}
			before := m.workspace.Scopes()
			resp, err := m.do(r.op, r.path, r.data)
			require.Equal(t, before, m.workspace.Scopes(), "nothing happened")
			require.Empty(t, m.walEntries())
			require.Empty(t, m.minted())
			if r.words == nil {
				m.requireOK(resp, err)
				return
			}
			m.refused(resp, err, append(r.words, "HTTP 4")...)
		})
	}
}

// TestSecretsFaults shows the status of what is neither the user's mistake nor a refusal.
func TestSecretsFaults(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		op   logical.Operation
		path string
		data map[string]any
		call string
	}{
		"write scope":    {logical.UpdateOperation, "scopes/new", nil, scopeCreatePath},
		"read scope":     {logical.ReadOperation, "scopes/etl", nil, scopeListPath},
		"list scopes":    {logical.ListOperation, "scopes/", nil, scopeListPath},
		"delete scope":   {logical.DeleteOperation, "scopes/etl", nil, scopeDeletePath},
		"write secret":   {logical.UpdateOperation, "secrets/etl/k", map[string]any{"string_value": "canary-value"}, secretPutPath},
		"read secret":    {logical.ReadOperation, "secrets/etl/k", nil, secretGetPath},
		"and its stamp":  {logical.ReadOperation, "secrets/etl/k", nil, secretListPath},
		"delete secret":  {logical.DeleteOperation, "secrets/etl/k", nil, secretDeletePath},
		"list secrets":   {logical.ListOperation, "secrets/etl", nil, secretListPath},
		"push secrets":   {logical.UpdateOperation, "secrets/etl", map[string]any{"secrets": map[string]any{"k": "canary-value"}}, secretPutPath},
		"prune secrets":  {logical.UpdateOperation, "secrets/etl", map[string]any{"secrets": map[string]any{"k": "canary-value"}, "prune": true}, secretListPath},
		"write acl":      {logical.UpdateOperation, "acls/etl/users", map[string]any{"permission": "READ"}, aclPutPath},
		"read acl":       {logical.ReadOperation, "acls/etl/users", nil, aclGetPath},
		"delete acl":     {logical.DeleteOperation, "acls/etl/users", nil, aclDeletePath},
		"list acls":      {logical.ListOperation, "acls/etl", nil, aclListPath},
		"guard own acl":  {logical.DeleteOperation, "acls/etl/engine@example.com", nil, aclListPath},
		"leased grant":   {logical.UpdateOperation, "acls/etl/users", map[string]any{"permission": "READ", "ttl": "1h"}, aclPutPath},
		"delivered cred": {logical.UpdateOperation, "creds/etl", map[string]any{"deliver_scope": "etl", "deliver_key": "k"}, secretPutPath},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := withScope(t)
			m.impatient()
			m.workspace.PutSecret("etl", "k", []byte("v"))
			for _, step := range []struct {
				fault  simulator.Fault
				status int
			}{
				{simulator.Fault{Status: 500}, http.StatusBadGateway},
				{simulator.Fault{HTML: true}, http.StatusBadGateway},
				{simulator.Fault{Reset: true}, http.StatusBadGateway},
				{simulator.Fault{Status: 429, Header: http.Header{"Retry-After": {"3600"}}}, http.StatusTooManyRequests},
			} {
				step.fault.Path = row.call
				m.workspace.Inject(step.fault)
				resp, err := m.do(row.op, row.path, row.data)
				m.coded(step.status, resp, err)
				m.workspace.ClearFaults()
				m.forgetThrottling()
			}
			resp, err := m.rollback()
			m.requireOK(resp, err)
			require.Empty(t, m.minted())
			require.Empty(t, m.walEntries())
		})
	}
}

func TestSecretWritesAreForwarded(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	for _, state := range []consts.ReplicationState{consts.ReplicationPerformanceStandby, consts.ReplicationPerformanceSecondary} {
		m.system.ReplicationStateVal = state
		m.workspace.ResetCalls()
		for _, path := range []string{"scopes/etl", "secrets/etl/k", "acls/etl/users", "secrets/etl"} {
			data := map[string]any{"string_value": "canary-value", "permission": "READ", "secrets": map[string]any{"k": "canary-value"}}
			_, err := m.do(logical.UpdateOperation, path, data)
			require.ErrorIs(t, err, logical.ErrReadOnly, path)
			if path != "secrets/etl" {
				_, err = m.do(logical.DeleteOperation, path, nil)
				require.ErrorIs(t, err, logical.ErrReadOnly, path)
			}
		}
		for _, path := range []string{scopeCreatePath, scopeDeletePath, secretPutPath, secretDeletePath, aclPutPath, aclDeletePath} {
			require.Zero(t, m.workspace.Count("", path))
		}
	}
}

// A key that Databricks lists without the time of its last write exists all the same.
func TestASecretWithoutATimestampExists(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.PutSecret("etl", "k", []byte("v"))
	m.workspace.Inject(simulator.Fault{Path: secretListPath, Body: `{"secrets": [{"key": "k"}]}`})
	read := m.read("secrets/etl/k").Data
	require.Equal(t, "", read["last_updated_timestamp"])
	require.Nil(t, read["last_updated_time"], "no value of a time is null")
	resp, err := m.do(logical.ListOperation, "secrets/etl", nil)
	m.requireOK(resp, err)
	require.Equal(t, map[string]any{"k": map[string]any{"last_updated_timestamp": "", "last_updated_time": nil}}, resp.Data["key_info"])
}

// Nor is such a key taken for gone by whatever is to delete it, and never for the engine's.
func TestASecretWithoutATimestampIsNotForgotten(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.strand("secrets/etl/k", leasedValue)
	fault := m.workspace.Inject(simulator.Fault{Path: secretListPath, Body: `{"secrets": [{"key": "k"}]}`})
	require.ErrorContains(t, m.failure(m.rollback()), "without the time of its last write")
	require.Len(t, m.walEntries(), 1)
	fault.Clear()
	m.rolledBack()
	_, there := m.has("k")
	require.False(t, there)
}

// TestPasswordPoliciesOverGRPC shows what is said of them where Vault's own words don't arrive.
func TestPasswordPoliciesOverGRPC(t *testing.T) {
	t.Parallel()
	m := newGRPCMount(t)
	m.connect()
	m.write("scopes/etl", nil)
	for name, policy := range map[string]string{"unknown": "nobody", "empty": ""} {
		resp, err := m.do(logical.UpdateOperation, "secrets/etl/k", map[string]any{"password_policy": policy})
		m.refused(resp, err, "password_policy: Vault can't generate a value by the policy", "sys/policies/password")
		require.NotContains(t, resp.Error().Error(), "rpc error", name)
	}
}
