// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"errors"
	"regexp"

	"github.com/databricks/databricks-sdk-go/service/iam"
)

// Identity is who the connection acts as. On an account, it is a service principal whose groups are not known.
type Identity struct {
	ID               string   `json:"id"`        // numeric id, as SCIM has it
	UserName         string   `json:"user_name"` // e-mail address of a user, application id of a service principal
	DisplayName      string   `json:"display_name"`
	ServicePrincipal bool     `json:"service_principal"`       // the user name is a UUID, as those of service principals are
	Admin            bool     `json:"admin"`                   // member of the workspace's group "admins"
	AccountAdmin     bool     `json:"account_admin,omitempty"` // on an account only
	Groups           []string `json:"groups"`                  // display names of the groups it is a member of
	WorkspaceID      string   `json:"workspace_id"`            // from the answer's X-Databricks-Org-Id header; "" when it has none
}

var uuid = regexp.MustCompile(`^(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// Me returns the identity of the connection, and so verifies host and credential (Databricks REST reference, Current User API,
// me). An account has no such API; there, the service principal is looked up by its application id.
func (c *Client) Me(ctx context.Context) (*Identity, error) {
	if c.account {
		return c.meOnAccount(ctx)
	}
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
		if IsAdminGroup(group.Display) {
			who.Admin = true
		}
	}
	return who, nil
}

func (c *Client) meOnAccount(ctx context.Context) (*Identity, error) {
	own, err := c.FindServicePrincipal(ctx, c.ownID)
	var failure *Error
	if errors.As(err, &failure) && failure.Kind == NotFound {
		// As NotFound, it would be mistaken for the absence of what the caller asked for.
		unknown := *failure
		unknown.Kind, unknown.what = Refused, "the account does not know the identity of this connection"
		unknown.hint = "check account_id, and that the service principal belongs to the account"
		return nil, &unknown
	}
	if err != nil {
		return nil, err
	}
	return &Identity{ID: own.ID, UserName: own.ApplicationID, DisplayName: own.DisplayName, ServicePrincipal: true, AccountAdmin: own.Admin}, nil
}
