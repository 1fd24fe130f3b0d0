// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/databricks/databricks-sdk-go/service/iam"
	"github.com/stretchr/testify/require"
)

func TestFilters(t *testing.T) {
	t.Parallel()
	w, _, token := withAdmin(t)
	a, b := w.AddServicePrincipal("vault-etl", false), w.AddServicePrincipal(`Vault "b" (x)`, false)
	c := w.AddServicePrincipal("other", false)
	require.Equal(t, 204, send(t, w, "PATCH", pathSPs+"/"+c.ID, token,
		patchOp(`{"op":"replace","value":{"active":false,"externalId":"ext"}}`)).status)
	find := func(path, filter string) answer {
		return send(t, w, "GET", path+"?filter="+url.QueryEscape(filter), token, "")
	}
	for filter, names := range map[string][]string{
		`displayName eq "vault-etl"`:                                      {"vault-etl"},
		`displayName eq "VAULT-ETL"`:                                      {"vault-etl"},
		`DISPLAYNAME EQ "vault-etl"`:                                      {"vault-etl"},
		`displayName eq "vault"`:                                          nil,
		`displayName sw "vault"`:                                          {"vault-etl", b.DisplayName},
		`displayName eq "Vault \"b\" (x)"`:                                {b.DisplayName},
		`displayName co "t"`:                                              {"vault-etl", b.DisplayName, "other"},
		`displayName ne "other"`:                                          {"vault-etl", b.DisplayName},
		`applicationId eq "` + a.ApplicationID + `"`:                      {"vault-etl"},
		`id eq "` + b.ID + `"`:                                            {b.DisplayName},
		`externalId eq "ext"`:                                             {"other"},
		`active eq true`:                                                  {"vault-etl", b.DisplayName},
		`active eq "false"`:                                               {"other"},
		`displayName sw "vault" and displayName ne "vault-etl"`:           {b.DisplayName},
		`displayName eq "other" or displayName eq "vault-etl"`:            {"vault-etl", "other"},
		`id eq "1" and id eq "2" or displayName eq "other"`:               {"other"},
		`displayName eq "other" or id eq "1" and id eq "2"`:               {"other"},
		`(displayName eq "other" or id eq "1") and externalId eq "ext"`:   {"other"},
		`displayName eq "other" and (id eq "1" or displayName co "ther")`: {"other"},
	} {
		got := find(pathSPs, filter)
		require.Equal(t, 200, got.status, filter)
		var found []string
		list, _ := got.json(t)["Resources"].([]any)
		for _, resource := range list {
			found = append(found, resource.(map[string]any)["displayName"].(string))
		}
		require.Equal(t, names, found, filter)
		require.Equal(t, float64(len(names)), got.json(t)["totalResults"])
	}
	for _, filter := range []string{
		`displayName`, `displayName eq`, `displayName eq other`, `displayName eq 5`, `displayName gt "a"`, `members eq "a"`, `externalid pr`,
		`displayName eq "a" and`, `displayName eq "a" displayName eq "b"`, `(displayName eq "a"`, `displayName eq "a")`, `()`, `(`, `"`, `and`, `displayName eq "\x"`,
	} {
		requireSCIM(t, find(pathSPs, filter), 400, "invalidFilter", filter)
	}
	requireSCIM(t, find(pathGroups, `active eq true`), 400, "invalidFilter", "active")
	require.Equal(t, 1.0, find(pathGroups, `id eq "732" and externalId eq ""`).json(t)["totalResults"])
	// A comparison and a connective are a node each.
	require.Equal(t, 200, find(pathSPs, strings.Repeat(`id eq "1" or `, 99)+`id eq "1"`).status)
	requireSCIM(t, find(pathSPs, strings.Repeat(`id eq "1" or `, 100)+`id eq "1"`), 400, "", "INVALID_FILTER")
}

func TestPages(t *testing.T) {
	t.Parallel()
	w, _, token := withAdmin(t)
	var names []string
	for i := range 7 {
		names = append(names, fmt.Sprintf("sp-%d", (i+3)%7))
		w.AddServicePrincipal(names[i], false)
	}
	all, err := iam.NewServicePrincipalsV2(sdk(t, w, token)).ListAll(t.Context(), iam.ListServicePrincipalsRequest{})
	require.NoError(t, err)
	require.Len(t, all, 7)
	w.ResetCalls()
	it := iam.NewServicePrincipalsV2(sdk(t, w, token)).List(t.Context(), iam.ListServicePrincipalsRequest{Count: 3})
	for _, name := range names {
		p, err := it.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, name, p.DisplayName)
	}
	require.False(t, it.HasNext(t.Context()))
	require.Equal(t, 4, w.Count("GET", pathSPs)) // the last page is empty

	for _, try := range []struct {
		query        string
		start, count int
	}{
		{"", 1, 7}, {"startIndex=1&count=2", 1, 2}, {"startIndex=7&count=2", 7, 1}, {"startIndex=8", 8, 0}, {"startIndex=100", 100, 0},
		{"startIndex=0", 1, 7}, {"startIndex=-5", 1, 7}, {"count=0", 1, 0}, {"count=-1", 1, 0}, {"count=20000", 1, 7},
	} {
		page := send(t, w, "GET", pathSPs+"?"+try.query, token, "").json(t)
		require.Equal(t, 7.0, page["totalResults"], try.query)
		require.Equal(t, float64(try.start), page["startIndex"], try.query)
		require.Equal(t, float64(try.count), page["itemsPerPage"], try.query)
		require.Equal(t, []any{"urn:ietf:params:scim:api:messages:2.0:ListResponse"}, page["schemas"])
		if try.count == 0 {
			require.NotContains(t, page, "Resources")
		} else {
			require.Len(t, page["Resources"], try.count)
		}
	}
	for _, query := range []string{"startIndex=x", "count=x", "sortBy=members"} {
		requireSCIM(t, send(t, w, "GET", pathSPs+"?"+query, token, ""), 400, "invalidValue", "")
	}
	first := func(query string) any {
		a := send(t, w, "GET", pathSPs+"?count=1&attributes=displayName&"+query, token, "")
		resource := a.json(t)["Resources"].([]any)[0].(map[string]any)
		require.Len(t, resource, 3)
		return resource["displayName"]
	}
	require.Equal(t, "sp-3", first(""))
	require.Equal(t, "sp-0", first("sortBy=displayName"))
	require.Equal(t, "sp-6", first("sortBy=displayName&sortOrder=descending"))
}
