// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"regexp"

	"github.com/databricks/databricks-sdk-go/service/iam"
)

// Identity is who the connection acts as.
type Identity struct {
	ID               string   `json:"id"`        // numeric id, as SCIM has it
	UserName         string   `json:"user_name"` // e-mail address of a user, application id of a service principal
	DisplayName      string   `json:"display_name"`
	ServicePrincipal bool     `json:"service_principal"` // the user name is a UUID, as those of service principals are
	Admin            bool     `json:"admin"`             // member of the workspace's group "admins"
	Groups           []string `json:"groups"`            // display names of the groups it is a member of
	WorkspaceID      string   `json:"workspace_id"`      // from the answer's X-Databricks-Org-Id header; "" when it has none
}

var uuid = regexp.MustCompile(`^(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// Me returns the identity of the connection, and so proves host and credential (Databricks REST reference, Current User
// API, me).
func (c *Client) Me(ctx context.Context) (*Identity, error) {
	var user *iam.User
	ca, err := c.do(ctx, call{op: opMe, result: true, signed: true}, func(ctx context.Context) error {
		var err error
		user, err = c.currentUser.Me(ctx, iam.MeRequest{})
		if err == nil && (user.Id == "" || user.UserName == "") {
			err = errIncomplete
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	who := &Identity{
		ID:               user.Id,
		UserName:         user.UserName,
		DisplayName:      user.DisplayName,
		ServicePrincipal: uuid.MatchString(user.UserName),
		WorkspaceID:      ca.header.Get("X-Databricks-Org-Id"),
	}
	for _, group := range user.Groups {
		who.Groups = append(who.Groups, group.Display)
		if group.Display == "admins" {
			who.Admin = true
		}
	}
	return who, nil
}
