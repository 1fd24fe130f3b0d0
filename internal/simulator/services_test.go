// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// served is a service besides those of credentials.
type served struct {
	scope, list, get string
	private          string // of get, what only admins may see
	absent           string // of get
	absentCode       string
}

var services = map[string]served{
	"clusters": {"clusters", "/api/2.1/clusters/list", "/api/2.1/clusters/get?cluster_id=1015-120000-shared01",
		"cluster_id=1015-120000-admins01", "cluster_id=0", "INVALID_PARAMETER_VALUE"},
	"libraries": {"libraries", "/api/2.0/libraries/all-cluster-statuses", "/api/2.0/libraries/cluster-status?cluster_id=1015-120000-shared01",
		"cluster_id=1015-120000-admins01", "cluster_id=0", "INVALID_PARAMETER_VALUE"},
	"jobs":              {"jobs", "/api/2.2/jobs/list", "/api/2.2/jobs/get?job_id=11", "job_id=12", "job_id=99", "INVALID_PARAMETER_VALUE"},
	"instance profiles": {scope: "instance-profiles", list: "/api/2.0/instance-profiles/list"},
	"dbfs": {"files", "/api/2.0/dbfs/list?path=/", "/api/2.0/dbfs/get-status?path=/FileStore/readme.txt",
		"", "path=/none", "RESOURCE_DOES_NOT_EXIST"},
	"workspace": {"workspace", "/api/2.0/workspace/list?path=/", "/api/2.0/workspace/get-status?path=/Shared/report",
		"path=/Admins", "path=/none", "RESOURCE_DOES_NOT_EXIST"},
}

// items is how many objects a list answer has.
func items(t *testing.T, a answer) int {
	t.Helper()
	require.Equal(t, 200, a.status, a.body)
	require.Len(t, a.json(t), 1)
	for _, found := range a.json(t) {
		return len(found.([]any))
	}
	return 0
}

func TestServicesAnswerByScopeAndByRights(t *testing.T) {
	t.Parallel()
	w := start(t)
	admin, _ := w.AddToken(w.AddUser("root@example.com", true), "", 0)
	alice, _ := w.AddToken(w.AddUser("alice@example.com", false), "", 0)
	for name, s := range services {
		t.Run(name, func(t *testing.T) {
			with, _ := mint(t, w, alice, `{"scopes":["`+s.scope+`"]}`)
			everything, _ := mint(t, w, alice, `{"scopes":["sql","all-apis"]}`)
			without, _ := mint(t, w, alice, `{"scopes":["sql","authentication","secrets"]}`)
			paths := []string{s.list}
			if s.get != "" {
				paths = append(paths, s.get)
			}
			for _, path := range paths {
				for _, token := range []string{admin, alice, with, everything} {
					require.Equal(t, 200, send(t, w, "GET", path, token, "").status, path)
				}
				requireRefused(t, send(t, w, "GET", path, without, ""), 403, 403.0)
				requireRefused(t, send(t, w, "GET", path, "", ""), 401, 401.0)
				requireRefused(t, send(t, w, "POST", path, admin, ""), 404, "ENDPOINT_NOT_FOUND")
			}
			if name != "dbfs" {
				require.Equal(t, 1, items(t, send(t, w, "GET", s.list, alice, "")))
				require.Equal(t, 2, items(t, send(t, w, "GET", s.list, admin, "")))
			}
			if s.get == "" {
				return
			}
			path, _, _ := strings.Cut(s.get, "?")
			requireRefused(t, send(t, w, "GET", path, admin, ""), 400, "INVALID_PARAMETER_VALUE")
			status := map[string]int{"INVALID_PARAMETER_VALUE": 400, "RESOURCE_DOES_NOT_EXIST": 404}[s.absentCode]
			requireRefused(t, send(t, w, "GET", path+"?"+s.absent, admin, ""), status, s.absentCode)
			if s.private != "" {
				requireRefused(t, send(t, w, "GET", path+"?"+s.private, alice, ""), 403, "PERMISSION_DENIED")
				require.Equal(t, 200, send(t, w, "GET", path+"?"+s.private, admin, "").status)
			}
		})
	}
}

func TestDirectoriesAreListedByTheirPaths(t *testing.T) {
	t.Parallel()
	w := start(t)
	alice, _ := w.AddToken(w.AddUser("alice@example.com", false), "", 0)
	for list, first := range map[string]string{
		"/api/2.0/dbfs/list?path=/FileStore":              `"path":"/FileStore/readme.txt"`,
		"/api/2.0/dbfs/list?path=/FileStore/readme.txt":   `"path":"/FileStore/readme.txt"`,
		"/api/2.0/workspace/list?path=/":                  `"path":"/Shared"`,
		"/api/2.0/workspace/list?path=/Shared":            `"path":"/Shared/report"`,
		"/api/2.0/workspace/list?path=%2FShared%2Freport": `"path":"/Shared/report"`,
	} {
		a := send(t, w, "GET", list, alice, "")
		require.Equal(t, 1, items(t, a), list)
		require.Contains(t, a.body, first)
	}
	requireRefused(t, send(t, w, "GET", "/api/2.0/dbfs/list?path=/none", alice, ""), 404, "RESOURCE_DOES_NOT_EXIST")
	requireRefused(t, send(t, w, "GET", "/api/2.0/dbfs/list", alice, ""), 400, "INVALID_PARAMETER_VALUE")
	requireRefused(t, send(t, w, "GET", "/api/2.0/workspace/list?path=/Admins", alice, ""), 403, "PERMISSION_DENIED")
}
