// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// goSyntax matches what only a programmer's mistake brings into a message: a broken format, or a value as Go prints it.
var goSyntax = regexp.MustCompile(`%!|&logical|&\{|map\[|<nil>|rpc error|0xc0[0-9a-f]{6}|runtime error|goroutine |interface \{\}|\*client\.|logical\.Response`)

// TestNoRequestIsAnInternalError sends random requests to every operation of every path, mostly with values of the right types, while
// Databricks now and then answers with an error or with nonsense. None may panic, be a 500, change what is stored although it is refused, or
// be answered in Go's syntax; what it is answered must be what the path declares.
func TestNoRequestIsAnInternalError(t *testing.T) {
	skipLong(t)
	t.Parallel()
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			newRandomRequests(t, seed).run(10)
		})
	}
}

// randomRequests sends random requests to a mount in which the names that it knows exist.
type randomRequests struct {
	*mount
	*rand.Rand
	names  []string
	leases []*logical.Secret
}

func newRandomRequests(t *testing.T, seed uint64) *randomRequests {
	t.Helper()
	r := &randomRequests{mount: newMount(t, simulator.WithAccount("6c8d4a52-0000-4000-8000-0123456789ab")), Rand: rand.New(rand.NewPCG(seed, 1))}
	sp := r.workspace.AddServicePrincipal("bi", false)
	r.workspace.SetTokenPermission(sp, true)
	r.workspace.AddUCSchema("etl", "etl", r.admin)
	_, foreign := r.workspace.AddToken(r.workspace.AddUser("jane@example.com", false), "not the engine's", 0)
	r.names = []string{"etl", "bi", "k", "none", "users", "jane@example.com", foreign, sp.ID, sp.ApplicationID, "ETL"}
	return r
}

// restore makes what the names stand for, unless a request left it.
func (r *randomRequests) restore() {
	r.t.Helper()
	resp, err := r.do(logical.DeleteOperation, "config", map[string]any{"force": true})
	r.requireOK(resp, err)
	r.connect(map[string]any{"max_retries": 0})
	resp, err = r.do(logical.DeleteOperation, "roles/etl", nil)
	r.requireOK(resp, err)
	r.write("roles/etl", map[string]any{"credential_type": "pat", "ttl": "10m", "max_ttl": "1h"})
	for path, data := range map[string]map[string]any{"scopes/etl": nil, "static-roles/bi": {"credential_type": "pat", "rotation_period": "24h"}} {
		resp, err := r.do(logical.UpdateOperation, path, data)
		r.requireDecent(logical.UpdateOperation, resp, err, "%s", path) // what was made of them may not fit
	}
}

// connected reports whether the mount has a connection.
func (r *randomRequests) connected() bool { return r.read("status").Data["configured"] == true }

func (r *randomRequests) run(rounds int) {
	r.t.Helper()
	r.restore()
	for round := range rounds {
		if round == 1 {
			resp, err := r.do(logical.DeleteOperation, "config", map[string]any{"force": true})
			r.requireOK(resp, err) // a round without a connection
		}
		if round == 2 {
			r.restore()
		}
		for _, path := range r.routes.Paths {
			operations := slices.Sorted(maps.Keys(path.Operations))
			for _, op := range operations {
				if changesConfig := path.Fields[keyHost] != nil && op != logical.ReadOperation; round != 1 || !changesConfig {
					r.send(op, path)
				}
			}
		}
		r.endLease()
	}
	require.Empty(r.t, r.logged("[ERROR]", "panic"))
}

// send sends one request, and requires a decent answer.
func (r *randomRequests) send(op logical.Operation, path *framework.Path) {
	r.t.Helper()
	if op == logical.CreateOperation {
		op = logical.UpdateOperation // the existence check says which of them it is
	}
	name, data := r.path(path), r.data(path)
	if op == logical.DeleteOperation && r.IntN(2) == 0 {
		data = nil // else most are refused for what they send
	}
	fault, faulty := simulator.Fault{}, r.IntN(4) == 0
	if faulty {
		fault = r.fault()
		fault.Offset, fault.Times = r.IntN(2), 1+r.IntN(2)
		r.workspace.Inject(fault)
	}
	before := r.entries()
	resp, err := r.do(op, name, data)
	r.workspace.ClearFaults()
	if writes := op == logical.UpdateOperation || op == logical.PatchOperation; writes && resp.IsError() && !faulty && !strings.Contains(name, "rotate-") {
		require.Equal(r.t, before, r.entries(), "%s %q %v was refused, and changed something", op, name, data)
	}
	r.requireDecent(op, resp, err, "%s %q %v, %+v", op, name, data, fault)
	if resp != nil && resp.Secret != nil {
		r.leases = append(r.leases, resp.Secret)
	}
	if path.Fields[keyHost] != nil && op != logical.ReadOperation || strings.HasPrefix(name, "scopes/") && op == logical.DeleteOperation && r.connected() {
		r.restore()
	}
}

// fault returns one with which Databricks, or something on the way there, answers the next call or the one after that.
func (r *randomRequests) fault() simulator.Fault {
	return []simulator.Fault{
		{Status: 400, ErrorCode: "INVALID_PARAMETER_VALUE", Message: "%s%d%v is not valid"},
		{Status: 403, ErrorCode: "PERMISSION_DENIED", Message: "no"},
		{Status: 403}, {Status: 404}, {Status: 404, Body: "<html>not here</html>"}, {Status: 404, ErrorCode: "RESOURCE_DOES_NOT_EXIST"},
		{Status: 200, Body: `{"token_value": 1}`}, {Status: 200, Body: "[]"}, {Status: 200, Body: "null"}, {Status: 204, Body: ""},
		{Status: 500}, {Status: 503, ErrorCode: "TEMPORARILY_UNAVAILABLE"}, {Reset: true}, {Close: true}, {HTML: true}, {Truncate: true},
	}[r.IntN(16)]
}

// entries are what is stored of the config, roles and static roles.
func (r *randomRequests) entries() map[string]string {
	r.t.Helper()
	entries := make(map[string]string)
	for _, prefix := range []string{configStoragePrefix, roleStoragePrefix, staticStoragePrefix} {
		names, err := r.storage.List(r.t.Context(), prefix)
		require.NoError(r.t, err)
		for _, name := range names {
			entry, err := r.storage.Get(r.t.Context(), prefix+name)
			require.NoError(r.t, err)
			entries[prefix+name] = string(entry.Value)
		}
	}
	return entries
}

// endLease renews and revokes a lease.
func (r *randomRequests) endLease() {
	r.t.Helper()
	if len(r.leases) == 0 {
		return
	}
	i := r.IntN(len(r.leases))
	for _, op := range []logical.Operation{logical.RenewOperation, logical.RevokeOperation, logical.RevokeOperation} {
		resp, err := r.leaseRequest(op, r.leases[i])
		r.requireDecent(op, resp, err, "%s %v", op, r.leases[i].InternalData)
	}
	r.leases = slices.Delete(r.leases, i, i+1)
}

func (r *randomRequests) requireDecent(op logical.Operation, resp *logical.Response, err error, what string, args ...any) {
	r.t.Helper()
	what = fmt.Sprintf(what, args...)
	status, _ := logical.RespondErrorCommon(&logical.Request{Operation: op}, resp, err)
	logical.AdjustErrorStatusCode(&status, err)
	require.NotEqual(r.t, http.StatusInternalServerError, status, "%s: %v", what, err)
	var texts []string
	if err != nil {
		texts = append(texts, err.Error())
	}
	if resp.IsError() {
		texts = append(texts, resp.Error().Error())
	}
	if resp != nil {
		texts = append(texts, resp.Warnings...)
	}
	for _, text := range texts {
		require.NotRegexp(r.t, goSyntax, text, what)
	}
}

// pathParameter matches a parameter in a path's pattern that holds no parentheses, or those of framework.GenericNameRegex.
var pathParameter = regexp.MustCompile(`\(\?P<(\w+)>(?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)`)

// path returns a path that the pattern matches, with random names as its parameters.
func (r *randomRequests) path(path *framework.Path) string {
	pattern := strings.TrimSuffix(strings.TrimPrefix(path.Pattern, "^"), "$")
	for range 20 {
		name := pathParameter.ReplaceAllStringFunc(pattern, func(string) string { return strings.ReplaceAll(r.text(), "\n", " ") })
		name = strings.TrimSuffix(name, "/?")
		if r.routes.Route(name) == path {
			return name
		}
	}
	return strings.TrimSuffix(pathParameter.ReplaceAllString(pattern, "etl"), "/?")
}

// data returns random values for some of the fields that are no parameters of the path, as they are after Vault has decoded them.
func (r *randomRequests) data(path *framework.Path) map[string]any {
	inPath := regexp.MustCompile(path.Pattern).SubexpNames()
	data := make(map[string]any)
	for _, field := range slices.Sorted(maps.Keys(path.Fields)) {
		if !slices.Contains(inPath, field) && r.IntN(3) == 0 {
			data[field] = r.value(field, path.Fields[field])
			if r.IntN(20) == 0 {
				data[field] = []any{nil, true, 1.5, []any{1, nil}, map[string]any{"a": []any{}}}[r.IntN(5)] // of another type
			}
		}
	}
	for field, values := range map[string][]any{
		keyCredentialType: {"pat", "obo_token", "oauth_secret", "oauth_token", "service_principal", "database_credential"},
		keyPermission:     {"READ", "WRITE", "MANAGE"},
		keyStringValue:    {r.secret()},
	} {
		if path.Fields[field] != nil && r.IntN(2) == 0 {
			data[field] = values[r.IntN(len(values))]
		}
	}
	if path.Fields[keyHost] != nil {
		// No request of this test may go elsewhere, or wait for what is slow on purpose.
		data[keyHost] = []any{r.workspace.URL(), r.workspace.URL() + "/x", "", "http://example.com", "%s", "https://[::1"}[r.IntN(6)]
		delete(data, keyRateLimit)
	}
	encoded, err := json.Marshal(data)
	require.NoError(r.t, err)
	decoder := json.NewDecoder(bytes.NewReader(encoded))
	decoder.UseNumber()
	var decoded map[string]any
	require.NoError(r.t, decoder.Decode(&decoded))
	return decoded
}

func (r *randomRequests) value(field string, schema *framework.FieldSchema) any {
	if schema.DisplayAttrs != nil && schema.DisplayAttrs.Sensitive && schema.Type == framework.TypeString {
		return r.secret()
	}
	switch schema.Type {
	case framework.TypeBool:
		return r.IntN(2) == 0
	case framework.TypeInt, framework.TypeInt64:
		return []int64{0, 1, -1, 5, 3600, 1 << 31, -1 << 63, 1<<63 - 1}[r.IntN(8)]
	case framework.TypeFloat:
		return []float64{0, 1, -1, 0.5, 1e300, -1e300}[r.IntN(6)]
	case framework.TypeDurationSecond:
		return []any{0, 60, 3600, -1, "1h", "90s", "", "x", "1h30m", "1d", "9999999h", 1 << 40, "%d"}[r.IntN(13)]
	case framework.TypeStringSlice, framework.TypeCommaStringSlice:
		list := []string{}
		for range r.IntN(4) {
			list = append(list, r.text())
		}
		return list
	case framework.TypeMap, framework.TypeKVPairs:
		pairs := make(map[string]any)
		for range r.IntN(4) {
			pairs[r.text()] = r.secret()
		}
		return pairs
	case framework.TypeString, framework.TypeLowerCaseString, framework.TypeNameString:
		return r.text()
	default:
		require.Fail(r.t, "no values of this type", "%s: %v", field, schema.Type)
		return nil
	}
}

// secret returns a value that nothing else has.
func (r *randomRequests) secret() string {
	value := fmt.Sprintf("hunter-%d", r.Uint64())
	return []string{value, base64.StdEncoding.EncodeToString([]byte(value)), value + "\n", "", "%s%d%v"}[r.IntN(5)]
}

// text returns a name that stands for something, or a text that is hard to deal with.
func (r *randomRequests) text() string {
	hard := []string{
		"", " ", ".", "..", "a b", "a/b", "../x", "%s%d%v", "%", "{{.RoleName}}", "{{", "{{.Nope}}", "{{range .}}", "é☃", "\x00", "a\nb", "-----BEGIN CERTIFICATE-----\n",
		"0", "-1", "123456789012345678901234567890", "null", "true", "[]", "{}", `"`, `\`, "*/5 * * * *", "1.5", "YQ==", "====", strings.Repeat("x", 200), strings.Repeat("ü", 3000),
	}
	if r.IntN(2) == 0 {
		return r.names[r.IntN(len(r.names))]
	}
	return hard[r.IntN(len(hard))]
}

// TestRandomRequestsReachEveryOperation shows that the test above tests something.
func TestRandomRequestsReachEveryOperation(t *testing.T) {
	t.Parallel()
	r := newRandomRequests(t, 1)
	r.restore()
	for _, path := range r.routes.Paths {
		reached := 0
		for range 50 {
			if r.routes.Route(r.path(path)) == path {
				reached++
			}
		}
		require.Equal(t, 50, reached, path.Pattern)
	}
}
