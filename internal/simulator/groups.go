// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"fmt"
	"slices"
	"strconv"
)

const (
	// firstGroupID is the id of users. Real workspaces have others.
	firstGroupID = 731

	// The system groups of every workspace.
	usersName  = "users"
	adminsName = "admins"
)

// Group is a group of the workspace.
type Group struct {
	ID      string   // numeric SCIM id
	Name    string   // display name
	Members []string // SCIM ids, in the order of the members' creation
}

// group is a group of the workspace or of the account. It is guarded by the
// workspace's mutex. The system group users keeps no members: it has everybody.
type group struct {
	id           string
	name         string
	account      bool
	externalID   string
	entitlements []string
	roles        []string
	members      map[*principal]bool
	assumable    map[*principal]bool // who may assume its rights without being a member
}

// groupName is unique: the workspace and its account have names of their own.
type groupName struct {
	account bool
	name    string
}

// groupRef is a group as its members show it.
type groupRef struct {
	Display string `json:"display"`
	Type    string `json:"type"`
	Value   string `json:"value"`
	Ref     string `json:"$ref"`
}

func (g *group) ref() groupRef {
	return groupRef{Display: g.name, Type: "direct", Value: g.id, Ref: "Groups/" + g.id}
}

// AddGroup adds a group by hand, and returns its id. Its members show it in
// their Me, and may use what secret scopes grant it. It panics if the name is
// taken, or a member is of another workspace.
func (w *Workspace) AddGroup(name string, members ...Principal) (id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.groupsByName[groupName{false, name}] != nil {
		panic(fmt.Sprintf("simulator: group name %q is taken", name))
	}
	found := make([]*principal, len(members))
	for i, member := range members {
		found[i] = w.mustFind(member)
	}
	added := w.addGroup(name, false)
	for _, member := range found {
		added.join(member)
	}
	return added.id
}

// addGroup adds a group without members. The caller holds the mutex.
func (w *Workspace) addGroup(name string, account bool) *group {
	added := &group{id: strconv.Itoa(firstGroupID + w.addedGroups), name: name, account: account, members: map[*principal]bool{}, assumable: map[*principal]bool{}}
	w.addedGroups++
	w.groups[added.id] = added
	w.groupsByName[groupName{account, name}] = added
	return added
}

// Groups lists the groups of the workspace in the order of their creation. The
// system group users is left out.
func (w *Workspace) Groups() []Group {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []Group
	for _, g := range w.groupsInOrder(false) {
		if g == w.users {
			continue
		}
		shown := Group{ID: g.id, Name: g.name}
		for _, p := range w.membersInOrder(g) {
			shown.Members = append(shown.Members, p.ID)
		}
		list = append(list, shown)
	}
	return list
}

// groupsInOrder lists the groups of a plane in the order of their creation. The
// caller holds the mutex.
func (w *Workspace) groupsInOrder(account bool) []*group {
	var list []*group
	for _, g := range w.groups {
		if g.account == account {
			list = append(list, g)
		}
	}
	slices.SortFunc(list, func(a, b *group) int { return int(numeric(a.id) - numeric(b.id)) })
	return list
}

// membersInOrder lists the members in the order of their creation. The caller
// holds the mutex.
func (w *Workspace) membersInOrder(g *group) []*principal {
	var list []*principal
	if g == w.users {
		for _, p := range w.principals {
			if p.inWorkspace {
				list = append(list, p)
			}
		}
	}
	for p := range g.members {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b *principal) int { return int(numeric(a.ID) - numeric(b.ID)) })
	return list
}

// join makes p a member, which it may be already. The caller holds the
// workspace's mutex.
func (g *group) join(p *principal) {
	if g.members[p] {
		return
	}
	g.members[p] = true
	p.groups = append(p.groups, g)
	p.Admin = p.Admin || g.isAdmins()
}

// leave ends p's membership. The caller holds the workspace's mutex.
func (g *group) leave(p *principal) {
	delete(g.members, p)
	p.groups = slices.DeleteFunc(p.groups, func(other *group) bool { return other == g })
	p.Admin = p.Admin && !g.isAdmins()
}

func (g *group) isAdmins() bool { return !g.account && g.name == adminsName }

// groupsOn lists the groups of a plane that p has joined, as a copy. The caller
// holds the workspace's mutex.
func (p *principal) groupsOn(account bool) []*group {
	var list []*group
	for _, g := range p.groups {
		if g.account == account {
			list = append(list, g)
		}
	}
	return list
}

// isPrincipal reports whether name is a user name, an application id or the
// display name of a group. The caller holds the mutex.
func (w *Workspace) isPrincipal(name string) bool {
	return w.byName[name] != nil || w.groupsByName[groupName{false, name}] != nil
}
