"""What a worker process may do: started with nothing, and confined by itself before it opens a model."""

from meshnode.sandbox.entering import GRADES as GRADES
from meshnode.sandbox.entering import Confinement as Confinement
from meshnode.sandbox.entering import Lack as Lack
from meshnode.sandbox.entering import Profile as Profile
from meshnode.sandbox.entering import enter as enter
from meshnode.sandbox.starting import start as start
