// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"fmt"
	"strconv"
)

// group is a group of the workspace, as a member of it shows it.
type group struct {
	Display string `json:"display"`
	Type    string `json:"type"`
	Value   string `json:"value"`
	Ref     string `json:"$ref"`
}

func newGroup(name string, id int) group {
	return group{Display: name, Type: "direct", Value: strconv.Itoa(id), Ref: "Groups/" + strconv.Itoa(id)}
}

// firstGroupID is the id of users. Real workspaces have others.
const firstGroupID = 731

// The system groups of every workspace.
var (
	usersGroup  = newGroup("users", firstGroupID)
	adminsGroup = newGroup("admins", firstGroupID+1)
)

// AddGroup adds a group by hand. Its members show it in their Me, and may use
// what secret scopes grant it. It panics if the name is taken, or a member is of
// another workspace.
func (w *Workspace) AddGroup(name string, members ...Principal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.groups[name] {
		panic(fmt.Sprintf("simulator: group name %q is taken", name))
	}
	found := make([]*principal, len(members))
	for i, member := range members {
		found[i] = w.mustFind(member)
	}
	added := newGroup(name, firstGroupID+len(w.groups))
	w.groups[name] = true
	for _, member := range found {
		member.groups = append(member.groups, added)
	}
}

// memberOf lists the groups of a principal. The caller holds the workspace's
// mutex.
func (p *principal) memberOf() []group {
	list := []group{usersGroup}
	if p.Admin {
		list = append(list, adminsGroup)
	}
	return append(list, p.groups...)
}

// isPrincipal tells whether name is a user name, an application id or the
// display name of a group. The caller holds the mutex.
func (w *Workspace) isPrincipal(name string) bool { return w.byName[name] != nil || w.groups[name] }
