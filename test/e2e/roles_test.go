// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRolesAreWrittenListedReadAndDeleted(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	m.write("roles/reader", data{"credential_type": "pat", "scopes": "sql,scim", "comment": "for {{.RoleName}}"})
	require.Equal(t, []string{"etl", "reader"}, m.keys("roles"))
	role := m.read("roles/reader")
	require.Equal(t, []any{"sql", "scim"}, role["scopes"])
	require.Equal(t, "for {{.RoleName}}", role["comment"])
	require.Zero(t, seconds(t, role["ttl"]))

	secret := m.mint("reader")
	require.Contains(t, secret.Data["comment"], "for reader")

	_, err := m.client.Logical().Delete(m.path + "/roles/reader")
	require.NoError(t, err)
	m.requireAbsent("roles/reader")
	require.Equal(t, []string{"etl"}, m.keys("roles"))
	require.True(t, m.works(tokenOf(secret)), "deleting a role does not end its leases")
}

func TestRoleOfBadInputIsRefusedAndNothingIsStored(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	for name, tt := range map[string]struct {
		body  data
		field string
	}{
		"no credential type":      {data{"ttl": "1h"}, "credential_type"},
		"unknown credential type": {data{"credential_type": "password"}, "credential_type"},
		"ttl above max_ttl":       {data{"credential_type": "pat", "ttl": "2h", "max_ttl": "1h"}, "ttl"},
		"negative ttl":            {data{"credential_type": "pat", "ttl": "-1h"}, "ttl"},
		"ttl that is no time":     {data{"credential_type": "pat", "ttl": "later"}, "ttl"},
		"unreadable template":     {data{"credential_type": "pat", "comment": "{{.RoleName"}, "comment"},
		"unknown name in it":      {data{"credential_type": "pat", "comment": "{{.Password}}"}, "comment"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := m.client.Logical().Write(m.path+"/roles/bad", tt.body)
			requireRefused(t, err, 400, tt.field)
		})
	}
	m.requireAbsent("roles/bad")
	require.Equal(t, []string{"etl"}, m.keys("roles"))
}

func TestMintOfUnknownRoleNamesIt(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	m.workspace.ResetCalls()
	_, err := m.tryMint("no-such-role", nil)
	requireRefused(t, err, 400, `"no-such-role"`)
	require.Zero(t, m.workspace.Count("", "*"))
}

func TestUnknownFieldIsRefused(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	for path, body := range map[string]data{"roles/other": {"credential_type": "pat", "max_tll": "9h"}, "config": {"max_tll": "9h"}} {
		_, err := m.tryWrite(path, body)
		requireRefused(t, err, 400, "max_tll: is not a parameter", "max_ttl")
	}
	m.requireAbsent("roles/other")
}

func TestRoleOnAdminConnectionWarns(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	secret := m.write("roles/powerful", data{"credential_type": "pat"})
	require.NotNil(t, secret)
	require.Contains(t, fmt.Sprint(secret.Warnings), "admin")
}
