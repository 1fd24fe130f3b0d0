// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// changes are the operations that change something.
var changes = []logical.Operation{logical.CreateOperation, logical.UpdateOperation, logical.PatchOperation, logical.DeleteOperation}

// samplePaths has an address of each path that changes something, or mints.
func samplePaths(t *testing.T, m *mount) map[string]*framework.Path {
	samples := make(map[string]*framework.Path)
	for _, sample := range []string{
		"config", "config/rotate-root", "roles/etl", "creds/etl", "static-roles/bi", "rotate-role/bi", "tokens/" + strings.Repeat("a", 64),
		"scopes/etl", "secrets/etl", "secrets/etl/k", "uc-secrets/main/app", "uc-secrets/main/app/k", "acls/etl/users", "tidy",
	} {
		samples[sample] = m.routes.Route(sample)
		require.NotNil(t, samples[sample], sample)
	}
	for _, path := range m.routes.Paths {
		if slices.ContainsFunc(changes, func(op logical.Operation) bool { return path.Operations[op] != nil }) {
			require.Contains(t, slices.Collect(maps.Values(samples)), path, "a sample of %s", path.Pattern)
		}
	}
	return samples
}

// untouched returns a check that since then Databricks got no call and no storage entry was written or deleted.
func (m *mount) untouched() (check func(of ...any)) {
	m.workspace.ResetCalls()
	writes := 0
	m.storage.onEach(func(op, key string) error {
		if op == "put" || op == "delete" {
			writes++
		}
		return nil
	})
	return func(of ...any) {
		m.t.Helper()
		require.Empty(m.t, m.workspace.Calls(), fmt.Sprint(of...))
		require.Zero(m.t, writes, fmt.Sprint(of...))
	}
}

// refusedRaw sends a request without the existence check, and requires a 400 with the words.
func (m *mount) refusedRaw(op logical.Operation, path string, data map[string]any, words ...string) {
	m.t.Helper()
	resp, err := m.backend.HandleRequest(m.t.Context(), &logical.Request{Operation: op, Path: path, Data: maps.Clone(data), Storage: m.storage, MountPoint: "databricks/"})
	m.refused(resp, err, words...)
	require.NotContains(m.t, resp.Error().Error(), "hunter2hunter2", "a value may be a secret")
}

// TestNothingIsCoerced sends each field of each path in every JSON type that it does not have.
func TestNothingIsCoerced(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	b := m.backend.(*backend)
	samples := samplePaths(t, m)
	check := m.untouched()
	object, list := map[string]any{"a": "hunter2hunter2"}, []any{"hunter2hunter2"}
	wrong := map[framework.FieldType][]any{
		framework.TypeString:           {0.10, 1.0, true, false, object, list},
		framework.TypeBool:             {0.0, 1.0, 2.0, "", "hunter2hunter2", "yes", object, list},
		framework.TypeInt:              {0.5, 1e300, "", "0.5", "010", "0x10", "1_0", "hunter2hunter2", true, object, list},
		framework.TypeFloat:            {"", "NaN", "inf", "0x1p-2", "hunter2hunter2", true, object, list, math.Inf(1), math.NaN()},
		framework.TypeDurationSecond:   {0.5, 1.5, -1.0, 1e300, 18446744074.0, "0.5", "500ms", "1.5s", "-1", "-1h", "99999999999999999999", "106752d", "hunter2hunter2", true, object, list},
		framework.TypeCommaStringSlice: {5.0, true, object, []any{"a", 5.0}, []any{true}, []any{nil}, []any{list}},
		framework.TypeMap:              {5.0, true, "hunter2hunter2", list},
	}
	for sample, path := range samples {
		for name, field := range path.Fields {
			values, known := wrong[field.Type]
			require.True(t, known, "%s has a type without values to try: %s", name, field.Type)
			for op := range path.Operations {
				if op == logical.ListOperation {
					continue
				}
				for _, value := range values {
					if _, isNumber := value.(float64); isNumber && slices.Contains(numericIDs, name) && value != 0.10 {
						continue
					}
					m.refusedRaw(op, sample, map[string]any{name: value}, name+": ")
					check(op, sample, name, value)
				}
			}
			for _, value := range values {
				if _, isNumber := value.(float64); isNumber && slices.Contains(numericIDs, name) {
					continue
				}
				found, exists, err := b.HandleExistenceCheck(t.Context(), &logical.Request{Operation: logical.UpdateOperation, Path: sample, Data: map[string]any{name: value}, Storage: m.storage})
				require.NoError(t, err, "the request itself says it, after Vault has looked at its policies")
				require.True(t, found && exists)
			}
		}
	}
}

// TestEveryFormOfAValueMeansTheSame shows what stays possible: the CLI sends every value as a text.
func TestEveryFormOfAValueMeansTheSame(t *testing.T) {
	t.Parallel()
	m := ready(t)
	for _, day := range []any{86400.0, 86400, "86400", "24h", "1440m", "1d", "86400s", "86400.0s"} {
		require.Equal(t, int64(86400), m.write("roles/r", map[string]any{"credential_type": "pat", "max_ttl": day, "ttl": 0}).Data["max_ttl"], "%v", day)
	}
	for _, truth := range []any{true, "true", "1", "T"} {
		require.Equal(t, true, m.write("config", map[string]any{"verify_connection": truth}).Data["verify_connection"], "%v", truth)
	}
	for _, three := range []any{3.0, 3, "3"} {
		require.Equal(t, 3, m.write("config", map[string]any{"max_retries": three}).Data["max_retries"], "%v", three)
	}
	for _, rate := range []any{2.5, "2.5", "25e-1"} {
		require.Equal(t, 2.5, m.write("config", map[string]any{"rate_limit": rate}).Data["rate_limit"], "%v", rate)
	}
	for _, scopes := range []any{"sql,jobs", []any{"sql", "jobs"}, []string{"sql", "jobs"}} {
		require.Equal(t, []string{"sql", "jobs"}, m.write("roles/r", map[string]any{"scopes": scopes}).Data["scopes"], "%v", scopes)
	}
	require.Equal(t, "1234567890123456", m.write("config", map[string]any{"workspace_id": 1234567890123456.0, "verify_connection": false}).Data["workspace_id"])
	require.Equal(t, "9007199254740991", m.write("config", map[string]any{"workspace_id": 9007199254740991.0, "verify_connection": false}).Data["workspace_id"])
	require.Equal(t, "9007199254740993", m.write("config", map[string]any{"workspace_id": "9007199254740993", "verify_connection": false}).Data["workspace_id"])
	m.write("config", map[string]any{"workspace_id": ""})
	for _, id := range []any{12345678901234567890.0, 9007199254740993.0, 1.5} {
		m.refusedRaw(logical.UpdateOperation, "config", map[string]any{"workspace_id": id}, "workspace_id: ", "as a string")
		m.refusedRaw(logical.UpdateOperation, "roles/r", map[string]any{"service_principal_id": id}, "service_principal_id: ", "as a string")
		m.refusedRaw(logical.UpdateOperation, "static-roles/r", map[string]any{"service_principal_id": id}, "service_principal_id: ", "as a string")
	}
}

// TestUnknownParametersAreRefused sends a misspelt parameter with every operation that changes something, and with the read that mints.
func TestUnknownParametersAreRefused(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	samples := samplePaths(t, m)
	check := m.untouched()
	for sample, path := range samples {
		for op := range path.Operations {
			if !slices.Contains(changes, op) && !strings.HasPrefix(sample, "creds/") {
				continue
			}
			for _, name := range []string{"dryrun", "Prune", "tll", "value"} {
				data := map[string]any{name: nil}
				for _, value := range []any{true, nil} { // null, too
					data[name] = value
					m.refusedRaw(op, sample, data, name+": is not a parameter of this request")
					check(op, sample, name)
				}
			}
		}
	}
	m.refusedRaw(logical.UpdateOperation, "secrets/etl", map[string]any{"secrets": map[string]any{"k": "v"}, "prune": true, "dryrun": true, "prun": true},
		"dryrun, prun: are not parameters of this request, so nothing was done; it takes bytes, dry_run, prune, secrets")
	m.refusedRaw(logical.UpdateOperation, "tidy", map[string]any{"a secret !": 1, strings.Repeat("x", 100): 1}, "one whose name is not a name")
	check()
}

// TestDeletesTakeOnlyTheirOwnParameters shows that a field of a write is refused by a delete, and force by a write that has no use for it.
func TestDeletesTakeOnlyTheirOwnParameters(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	samples := samplePaths(t, m)
	check := m.untouched()
	accepted := map[string][]string{"config": {"force"}, "static-roles/bi": {"force"}, "acls/etl/users": {"force", "wait"}, "tokens/" + strings.Repeat("a", 64): {"all"}}
	for sample, path := range samples {
		if path.Operations[logical.DeleteOperation] == nil {
			continue
		}
		for name, field := range path.Fields {
			if !slices.Contains(accepted[sample], name) {
				value := map[framework.FieldType]any{framework.TypeMap: map[string]any{}, framework.TypeBool: true, framework.TypeString: "x", framework.TypeCommaStringSlice: "x"}[field.Type]
				if value == nil {
					value = 1
				}
				m.refusedRaw(logical.DeleteOperation, sample, map[string]any{name: value}, name+": is not a parameter of this request")
				check(sample, name)
			}
		}
	}
	for _, path := range []string{"config", "static-roles/bi"} {
		m.refusedRaw(logical.UpdateOperation, path, map[string]any{"force": true}, "force: is a parameter of a delete")
	}
}

// TestAPathIsNotContradicted shows that a part of the path can't be sent with another value: the framework would ignore it.
func TestAPathIsNotContradicted(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	check := m.untouched()
	for path, data := range map[string]map[string]any{
		"secrets/etl/k":  {"scope": "prod", "string_value": "v"},
		"secrets/etl":    {"scope": "prod", "secrets": map[string]any{"k": "v"}},
		"acls/etl/users": {"principal": "admins", "permission": "READ"},
		"scopes/etl":     {"scope": "prod"},
		"roles/etl":      {"name": "prod", "credential_type": "pat"},
		"creds/etl":      {"role": "prod"},
	} {
		m.refusedRaw(logical.UpdateOperation, path, data, ": is part of the path")
		check(path)
	}
	m.write("secrets/etl/k", map[string]any{"scope": "etl", "key": "k", "string_value": "v"})
}

// TestNullDoesNotUndoAProtection shows that null for a boolean of a request is refused: with dry_run it would delete.
func TestNullDoesNotUndoAProtection(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	check := m.untouched()
	for path, data := range map[string]map[string]any{
		"secrets/etl":    {"secrets": map[string]any{"k": "v"}, "prune": true, "dry_run": nil},
		"secrets/etl/k":  {"string_value": "v", "if_absent": nil},
		"tidy":           {"dry_run": nil},
		"acls/etl/users": {"permission": "READ", "force": nil},
	} {
		m.refusedRaw(logical.UpdateOperation, path, data, ": is null; send true or false")
		check(path)
	}
}

// TestBrokenTextIsRefused sends U+FFFD, which is what a JSON decoder makes of bytes that are not UTF-8, in every field with text.
func TestBrokenTextIsRefused(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	samples := samplePaths(t, m)
	check := m.untouched()
	for sample, path := range samples {
		for name, field := range path.Fields {
			var values []any
			switch field.Type {
			case framework.TypeString:
				values = []any{"PK\ufffd\ufffd", "\ufffd", "cut \xc3"}
			case framework.TypeCommaStringSlice:
				values = []any{"a,\ufffd", []any{"a", "\ufffd"}}
			case framework.TypeMap:
				values = []any{map[string]any{"k": "\ufffd"}, map[string]any{"\ufffd": "v"}}
			}
			for _, value := range values {
				m.refusedRaw(logical.UpdateOperation, sample, map[string]any{name: value}, name+": ", "U+FFFD")
				check(sample, name)
			}
		}
	}
	m.refusedRaw(logical.UpdateOperation, "secrets/etl/k", map[string]any{"string_value": "\ufffd"}, "bytes_value")
	m.refusedRaw(logical.UpdateOperation, "secrets/etl", map[string]any{"secrets": map[string]any{"k": "\ufffd"}}, "in bytes")
}

// TestDeletesAnswerNothing shows that what has nothing to say is a nil response, of which Vault makes a 204.
func TestDeletesAnswerNothing(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.write("secrets/etl/k", map[string]any{"string_value": "v"})
	m.write("acls/etl/users", map[string]any{"permission": "READ"})
	m.write("static-roles/bi", map[string]any{"credential_type": "pat"})
	for range 2 { // what is there, and what is not
		for _, path := range []string{"secrets/etl/k", "acls/etl/users", "scopes/etl", "static-roles/bi", "roles/etl"} {
			resp, err := m.backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.DeleteOperation, Path: path, Storage: m.storage, MountPoint: "databricks/"})
			require.NoError(t, err, path)
			require.Nil(t, resp, path)
		}
	}
}

// TestOperationIDsAreUnique looks through the whole OpenAPI document: client generators refuse one id for two operations.
func TestOperationIDsAreUnique(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	resp, err := m.backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.HelpOperation, Path: "", Storage: m.storage,
		Data: map[string]any{"requestResponsePrefix": "databricks"}})
	require.NoError(t, err)
	document := resp.Data["openapi"].(*framework.OASDocument)
	require.Greater(t, len(document.Paths), 15)
	seen := make(map[string]string)
	for path, item := range document.Paths {
		for method, op := range map[string]*framework.OASOperation{"GET": item.Get, "POST": item.Post, "PATCH": item.Patch, "DELETE": item.Delete} {
			if op == nil {
				continue
			}
			require.NotEmpty(t, op.OperationID, path)
			require.Empty(t, seen[op.OperationID], "%s %s has the id %s, too", method, path, op.OperationID)
			seen[op.OperationID] = method + " " + path
		}
	}
}

// TestAnEmptyValueIsNotAll shows that a caller who must name scopes or a place to deliver to can't send nothing: Vault's policies let empty
// values pass whatever values they allow.
func TestAnEmptyValueIsNotAll(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.write("roles/sql", map[string]any{"credential_type": "pat", "scopes": "sql,jobs"})
	check := m.untouched()
	for _, role := range []string{"etl", "sql"} {
		for _, data := range []map[string]any{
			{"scopes": ""}, {"scopes": []any{}}, {"scopes": nil}, {"deliver_scope": "", "deliver_key": ""}, {"deliver_scope": nil, "deliver_key": nil}, {"deliver_key": ""},
			{"deliver_scope": ""}, {"ttl": ""}, {"ttl": nil},
		} {
			for _, op := range []logical.Operation{logical.UpdateOperation, logical.ReadOperation} {
				m.refusedRaw(op, "creds/"+role, data, ": is ")
			}
		}
	}
	check()
}

// TestWordsAreComparedAsTheyAre shows that no other spelling of a word is taken for it: a policy that denies MANAGE compares it, too.
func TestWordsAreComparedAsTheyAre(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	check := m.untouched()
	for path, data := range map[string]map[string]any{
		"acls/etl/users":  {"permission": "manage"},
		"acls/etl/admins": {"permission": " MANAGE"},
		"scopes/new":      {"scope_backend_type": "databricks"},
		"roles/new":       {"credential_type": "PAT"},
		"static-roles/x":  {"credential_type": "Pat"},
		"config":          {"auth_type": "PAT", "token": m.token},
	} {
		m.refusedRaw(logical.UpdateOperation, path, data, "use ")
		check(path)
	}
}

// TestAnEmptyDurationResets shows that an empty text resets a stored duration to what it is when nobody sets it, as null does.
func TestAnEmptyDurationResets(t *testing.T) {
	t.Parallel()
	m := ready(t)
	role := map[string]any{"credential_type": "pat", "rotation_period": "24h", "rotation_grace_period": "2h"}
	for _, empty := range []any{"", nil} {
		m.write("static-roles/bi", role)
		require.Equal(t, int64(3600), m.write("static-roles/bi", map[string]any{"rotation_grace_period": empty}).Data["rotation_grace_period"], "%v", empty)
	}
	require.Equal(t, int64(0), m.write("static-roles/bi", map[string]any{"rotation_grace_period": 0}).Data["rotation_grace_period"])
	m.write("config", map[string]any{"request_timeout": "30s"})
	require.Equal(t, int64(20), m.write("config", map[string]any{"request_timeout": ""}).Data["request_timeout"])
}

// TestLongListsAreRefused shows that no list of a request costs more than it has elements.
func TestLongListsAreRefused(t *testing.T) {
	t.Parallel()
	m := ready(t)
	check := m.untouched()
	long := make([]any, maxListed+1)
	for i := range long {
		long[i] = fmt.Sprint("s", i)
	}
	for path, field := range map[string]string{"creds/etl": "scopes", "roles/x": "groups", "static-roles/x": "scopes", "tidy": "mount_ids"} {
		m.refusedRaw(logical.UpdateOperation, path, map[string]any{field: long}, field+": has 101 elements; 100 is the most")
		m.refusedRaw(logical.UpdateOperation, path, map[string]any{field: strings.Repeat("s,", maxListed) + "s"}, field+": has 101 elements; 100 is the most")
	}
	check()
}
